package journal

import (
	"context"
	"errors"
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

// redeliverAfter is when an end whose announcement failed comes again.
const redeliverAfter = 2 * time.Second

// Ends hands each end to announce, at least once, until ctx ends. Several
// callers share the ends among them. An end is done with when announce returns
// nil; otherwise it comes again, for as long as the journal keeps it.
func (j *Journal) Ends(ctx context.Context, announce func(context.Context, Delivery) error) error {
	consumer, err := j.js.Consumer(ctx, Stream, announcer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return unavailable("NATS_URL", "the consumer "+announcer+" is not there: run `ray-executor deploy`", err)
	}
	if err != nil {
		return j.failed("reach the consumer "+announcer, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(100))
	if err != nil {
		return j.failed("read the ends", err)
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return j.failed("read the ends", err)
		}
		if err := j.deliver(ctx, message, announce); err != nil {
			j.log.Warn("an end could not be announced; it comes again", "subject", message.Subject(), "error", err)
			err = message.NakWithDelay(redeliverAfter)
		} else {
			err = message.Ack()
		}
		if err != nil {
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
func (j *Journal) MaxAnnouncement() int {
	return min(int(j.conn.MaxPayload()), maxMessageBytes) - 4096
}
