package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// A watch looks at the leader when it hears of a message, which may not be
// stored yet: then again, soon and ever later. Hearing is not certain, so it
// looks now and then without it: seldom, as a look reads a message of up to a
// megabyte.
const (
	pollSoon  = 5 * time.Millisecond
	pollLater = 30 * time.Second
)

// Watch tells each entry of one deliberation's story after a sequence, in
// order and as it comes, until the deliberation has ended, ctx ends or NATS is
// away. The first call, with an entry that holds no event, says that the story
// goes on behind that sequence; a story that has ended before it is not told
// at all. An id that the journal does not hold is NotFound.
//
// It needs no consumer, of which a stream has 1,000 by default: a subscription
// says when to read on.
func (j *Journal) Watch(ctx context.Context, id string, after uint64, tell func(deliberation.Entry) error) error {
	ctx, stop := j.whileConnected(ctx)
	defer stop()
	heard := make(chan struct{}, 1)
	subscription, err := j.conn.Subscribe(events.HistorySubject(id), func(*nats.Msg) {
		select {
		case heard <- struct{}{}:
		default: // it is about to look
		}
	})
	if err != nil {
		return j.failed("read the journal", err)
	}
	defer func() { _ = subscription.Unsubscribe() }() // it fails where the connection is gone, and with it the subscription
	err = j.watch(ctx, id, after, heard, tell)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return j.failed("read the journal", cause)
	}
	return err
}

func (j *Journal) watch(ctx context.Context, id string, after uint64, heard <-chan struct{}, tell func(deliberation.Entry) error) error {
	last, err := j.lastOf(ctx, id)
	if err != nil {
		return err
	}
	ended, err := j.last(ctx, events.EndSubject(id))
	if err != nil || ended != nil && ended.Sequence <= after {
		return err
	}
	if err := tell(deliberation.Entry{}); err != nil {
		return err
	}
	after = min(after, last) // nobody can have seen more than there is
	for {
		over := false
		err := j.each(ctx, id, after+1, last, func(entry deliberation.Entry) error {
			if over {
				return nil // what comes after the end is ignored
			}
			over, after = deliberation.EndState(entry.Event).Ended(), entry.Sequence
			return tell(entry)
		})
		if err != nil || over {
			return err
		}
		if last, err = j.behind(ctx, id, after, heard); err != nil {
			return err
		}
	}
}

// behind waits until the story has an entry after a sequence, and returns the
// last one's.
func (j *Journal) behind(ctx context.Context, id string, after uint64, heard <-chan struct{}) (uint64, error) {
	for pause := pollLater; ; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-heard:
			pause = pollSoon
		case <-time.After(pause):
			pause = min(4*pause, pollLater)
		}
		if last, err := j.lastOf(ctx, id); err != nil || last > after {
			return last, err
		}
	}
}

// lastOf returns the sequence of a story's last entry, from the leader.
func (j *Journal) lastOf(ctx context.Context, id string) (uint64, error) {
	last, err := j.last(ctx, events.HistorySubject(id))
	if err != nil {
		return 0, err
	}
	if last == nil {
		return 0, deliberation.NoSuch(id)
	}
	return last.Sequence, nil
}

// whileConnected returns a context that ends with the connection too, by
// nats.ErrDisconnected.
func (j *Journal) whileConnected(ctx context.Context) (connected context.Context, stop func()) {
	connected, cancel := context.WithCancelCause(ctx)
	changes := j.conn.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	if !j.conn.IsConnected() {
		cancel(nats.ErrDisconnected)
	}
	go func() {
		select {
		case <-changes:
			cancel(nats.ErrDisconnected)
		case <-connected.Done():
		}
		j.conn.RemoveStatusListener(changes)
	}()
	return connected, func() { cancel(nil) }
}
