package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// Delivery is an end to be announced.
type Delivery struct {
	deliberation.Entry
	TraceParent string
}

// An end whose announcement failed comes again after redeliverAfter, and
// later each time.
const (
	redeliverAfter   = 2 * time.Second
	redeliverSlowest = 5 * time.Minute
)

// Ends hands each end to announce, at least once, until ctx ends or NATS is
// away. Several callers share the ends among them. An end is done with when
// announce returns nil; otherwise it comes again, for as long as the journal
// keeps it.
func (j *Journal) Ends(ctx context.Context, announce func(context.Context, Delivery) error) error {
	consumer, err := j.js.Consumer(ctx, Stream, announcer)
	if err != nil {
		return j.failed("reach the consumer "+announcer, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(64), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return j.failed("read the ends", err)
	}
	defer j.giveBack(messages)
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return j.failed("read the ends", err)
		}
		if err := j.settle(ctx, message, announce); err != nil {
			return err
		}
	}
}

// settle has an end announced and tells the server how it went. Only what
// concerns every end is an error: NATS is away, or ctx has ended.
func (j *Journal) settle(ctx context.Context, message jetstream.Msg, announce func(context.Context, Delivery) error) error {
	failure := j.deliver(ctx, message, announce)
	var err error
	if failure == nil {
		err = message.Ack()
	} else {
		err = message.NakWithDelay(pause(message))
	}
	if err != nil {
		j.log.Debug("answer to the journal", "error", err)
	}
	switch {
	case failure == nil:
		return nil
	case ctx.Err() != nil || deliberation.AsError(failure).Code == deliberation.Unavailable:
		return failure
	default:
		j.log.Warn("an end could not be announced; it comes again", "subject", message.Subject(), "error", failure)
		return nil
	}
}

// pause is how long a message waits for its next delivery: twice as long each
// time.
func pause(message jetstream.Msg) time.Duration {
	metadata, err := message.Metadata()
	if err != nil {
		return redeliverSlowest
	}
	return min(redeliverAfter<<min(metadata.NumDelivered-1, 16), redeliverSlowest)
}

// giveBack stops reading and returns what was not looked at, so that another
// keeper need not wait for it.
func (j *Journal) giveBack(messages jetstream.MessagesContext) {
	messages.Drain()
	for {
		message, err := messages.Next(jetstream.NextMaxWait(time.Second))
		if err != nil {
			return
		}
		if err := message.Nak(); err != nil {
			j.log.Debug("answer to the journal", "error", err)
		}
	}
}

func (j *Journal) deliver(ctx context.Context, message jetstream.Msg, announce func(context.Context, Delivery) error) error {
	metadata, err := message.Metadata()
	if err != nil {
		return fmt.Errorf("read a journal message's metadata: %w", err)
	}
	entry, err := j.entry(ctx, &jetstream.RawStreamMsg{
		Subject: message.Subject(), Sequence: metadata.Sequence.Stream,
		Header: message.Headers(), Data: message.Data(), Time: metadata.Timestamp,
	})
	if err != nil {
		return err
	}
	return announce(ctx, Delivery{Entry: entry, TraceParent: events.Trace(message.Headers())})
}

// Announce publishes to the announcements' stream and waits until it is
// stored. The server drops a repeat of the same id within its duplicate
// window.
func (j *Journal) Announce(ctx context.Context, subject, id string, header map[string][]string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	message := &nats.Msg{Subject: subject, Header: header, Data: data}
	if _, err := j.js.PublishMsg(ctx, message, jetstream.WithMsgID(id), jetstream.WithExpectStream(Announcements)); err != nil {
		return j.failed("announce on "+subject, err)
	}
	return nil
}

// MaxAnnouncement is the largest announcement in bytes: what the server takes,
// less room for headers.
func (j *Journal) MaxAnnouncement() int { return j.maxData() }
