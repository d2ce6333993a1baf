package journal

import (
	"cmp"
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// watchAhead is how many entries travel before they are told: each may be
// 1 MiB, and whoever watches may be slow.
const watchAhead = 16

// Watch tells each entry of one deliberation's story after a sequence, in
// order and as it comes, until the deliberation has ended, ctx ends or NATS is
// away. The first call, with an entry that holds no event, says that the story
// goes on behind that sequence; a story that has ended before it is not told
// at all. An id that the journal does not hold is NotFound.
func (j *Journal) Watch(ctx context.Context, id string, after uint64, tell func(deliberation.Entry) error) error {
	last, err := j.last(ctx, events.StorySubject(id))
	if err != nil {
		return err
	}
	if last == nil {
		return deliberation.NoSuch(id)
	}
	ended, err := j.last(ctx, events.EndSubject(id))
	if err != nil || ended != nil && ended.Sequence <= after {
		return err
	}
	if err := tell(deliberation.Entry{}); err != nil {
		return err
	}
	// Nobody can have seen more than there is.
	return j.watch(ctx, id, min(after, last.Sequence), tell)
}

func (j *Journal) watch(ctx context.Context, id string, after uint64, tell func(deliberation.Entry) error) error {
	config := jetstream.OrderedConsumerConfig{FilterSubjects: []string{events.StorySubject(id)}}
	return j.consume(ctx, config, after+1, watchAhead, func(message jetstream.Msg) (more bool, err error) {
		entry, err := j.told(ctx, message)
		if err != nil {
			return false, err
		}
		return !isEnd(entry.Event), tell(entry)
	})
}

// told decodes a message that a consumer was sent.
func (j *Journal) told(ctx context.Context, message jetstream.Msg) (deliberation.Entry, error) {
	metadata, err := message.Metadata()
	if err != nil {
		return deliberation.Entry{}, fmt.Errorf("read a journal message's metadata: %w", err)
	}
	return j.entry(ctx, &jetstream.RawStreamMsg{
		Subject: message.Subject(), Sequence: metadata.Sequence.Stream, Header: message.Headers(),
		Data: message.Data(), Time: metadata.Timestamp,
	})
}

func isEnd(event proto.Message) bool {
	switch event.(type) {
	case *pb.DeliberationCompleted, *pb.DeliberationFailed, *pb.DeliberationCancelled:
		return true
	default:
		return false
	}
}

// consume reads the journal from a sequence on by an ordered consumer, in
// order, until more says no, ctx ends or NATS is away. ahead bounds the messages
// that travel before they are read.
func (j *Journal) consume(ctx context.Context, config jetstream.OrderedConsumerConfig, from uint64, ahead int, more func(jetstream.Msg) (bool, error)) error {
	config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	// The client leaves its consumer behind, and while it mends one it does
	// not hear of ctx: the caller tries again instead.
	config.InactiveThreshold, config.MaxResetAttempts = 5*heartbeat, 1
	ctx, stop := j.whileConnected(ctx)
	defer stop()
	failed := func(err error) error { return j.failed("read the journal", cmp.Or(context.Cause(ctx), err)) }
	consumer, err := j.js.OrderedConsumer(ctx, Stream, config)
	if err != nil {
		return failed(err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(ahead), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return failed(err)
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return failed(err)
		}
		if again, err := more(message); err != nil || !again {
			return err
		}
	}
}

// whileConnected returns a context that ends with the connection too, by
// nats.ErrDisconnected: a consumer waits for it to come back, for as long as it
// takes.
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
