package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// A watch subscribes to the subjects of one deliberation, and reads from the leader
// when it receives a message. The subscription delivers a publish, not a stored
// message: it may be stored a moment later, or never. So the watch polls the leader
// soon, and then with a growing interval. A message may also be lost on its way to
// the subscription, so it polls without one too: seldom, as a poll reads a message
// of up to a megabyte.
const (
	pollSoon  = 5 * time.Millisecond
	pollLater = 30 * time.Second
)

// Watch calls handle for each entry of one deliberation after a sequence, in order
// and as it is stored, until the deliberation has ended, ctx ends or NATS cannot be
// reached. The sequence of the last entry resumes a watch without gap or repeat.
//
// The first call has an entry without an event: the watch has begun. If the
// deliberation ended at or before the sequence, handle is never called. NotFound:
// the journal does not hold the id.
//
// It uses no consumer, because a stream has 1,000 at most by default.
func (j *Journal) Watch(ctx context.Context, id string, after uint64, handle func(deliberation.Entry) error) error {
	ctx, stop := j.whileConnected(ctx)
	defer stop()
	published := make(chan struct{}, 1)
	subscription, err := j.conn.Subscribe(events.HistorySubject(id), func(*nats.Msg) {
		select {
		case published <- struct{}{}:
		default: // a poll is due already
		}
	})
	if err != nil {
		return j.failed("read the journal", err)
	}
	defer func() { _ = subscription.Unsubscribe() }() // it fails where the connection is gone, and with it the subscription
	err = j.watch(ctx, id, after, published, handle)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return j.failed("read the journal", cause)
	}
	return err
}

// watch subscribes first and reads then, so that no message between the two is
// missed.
func (j *Journal) watch(ctx context.Context, id string, after uint64, published <-chan struct{}, handle func(deliberation.Entry) error) error {
	last, err := j.lastOf(ctx, id)
	if err != nil {
		return err
	}
	ended, err := j.last(ctx, events.EndSubject(id))
	if err != nil || ended != nil && ended.Sequence <= after {
		return err
	}
	if err := handle(deliberation.Entry{}); err != nil {
		return err
	}
	after = min(after, last) // a caller from before a restored backup may name a later sequence
	for {
		over := false
		err := j.each(ctx, id, after+1, last, func(entry deliberation.Entry) error {
			if over {
				return nil // entries after the end are ignored, as in Fold
			}
			over, after = deliberation.EndState(entry.Event).Ended(), entry.Sequence
			return handle(entry)
		})
		if err != nil || over {
			return err
		}
		if last, err = j.awaitAfter(ctx, id, after, published); err != nil {
			return err
		}
	}
}

// awaitAfter waits until the deliberation has an entry after a sequence, and
// returns the sequence of its last one.
func (j *Journal) awaitAfter(ctx context.Context, id string, after uint64, published <-chan struct{}) (uint64, error) {
	for pause := pollLater; ; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-published:
			pause = pollSoon
		case <-time.After(pause):
			pause = min(4*pause, pollLater)
		}
		if last, err := j.lastOf(ctx, id); err != nil || last > after {
			return last, err
		}
	}
}

// lastOf returns the sequence of a deliberation's last entry, from the leader.
// NotFound: it has none.
func (j *Journal) lastOf(ctx context.Context, id string) (uint64, error) {
	last, err := j.last(ctx, events.HistorySubject(id))
	if err != nil {
		return 0, err
	}
	// A retained end may have outlived the request; then the id exists all the same.
	if last == nil {
		return 0, deliberation.NoSuch(id)
	}
	return last.Sequence, nil
}

// whileConnected returns a context that also ends when the connection is lost,
// with the cause nats.ErrDisconnected. The listener is added before the state is
// read, so that a loss between the two is noticed.
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
