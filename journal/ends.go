package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// The ends have several readers, each with a durable consumer. Delivery is at
// least once: an end is acknowledged after its reader has handled it, so a reader
// that is killed in between handles it again. Handlers must be idempotent.

// Delivery is an end that is handed to a reader.
type Delivery struct {
	deliberation.Entry
	// TraceParent is the trace context of the end's writer; empty if it had none.
	TraceParent string
	// Attempt counts the deliveries of this end to this reader, from 1. A redelivery
	// after a crash counts too.
	Attempt uint64
}

// Reader is a consumer of the ends. Each reader has its own position and its own
// redeliveries, so that a slow or failing one delays no other.
type Reader struct {
	consumer string
	// hint is added to the error if the consumer does not exist.
	hint string
	// concurrency is how many ends are handled at the same time.
	concurrency int
}

// The readers. Their concurrency bounds the calls to the destination, not the ends in
// flight: MaxAckPending of the consumer is higher, so that ends that wait for a
// redelivery do not block the others.
var (
	// Announcer publishes each end for the Orchestrator.
	Announcer = Reader{consumer: "keeper-announce", concurrency: 16}
	// Responder publishes a response per agent. Its consumer exists while
	// AGENT_RESPONSES=true.
	Responder = Reader{consumer: "keeper-responses", hint: " (deploy creates it while AGENT_RESPONSES=true)", concurrency: 16}
	// DeadLetterWriter stores the ends that are dead letters.
	DeadLetterWriter = Reader{consumer: "keeper-dead", concurrency: 4}
	// Relay posts the ends to a sink. See PrepareRelay.
	Relay = Reader{consumer: "relay", concurrency: 64}
)

// LaterError is a handler's error that sets the time of the next delivery. The
// handler has logged its cause already.
type LaterError struct {
	After time.Duration
	Cause error
}

func (l *LaterError) Error() string { return fmt.Sprintf("redelivered in %s: %v", l.After, l.Cause) }

// Unwrap returns the cause.
func (l *LaterError) Unwrap() error { return l.Cause }

// The backoff of redeliveries: it starts at redeliverAfter and doubles up to
// redeliverSlowest.
const (
	redeliverAfter   = 2 * time.Second
	redeliverSlowest = 5 * time.Minute
)

// Ends calls handle for each end, at least once, until ctx ends or NATS cannot be
// reached. Calls run concurrently, and their order is not that of the journal.
// Several processes share the ends of one reader among them.
//
// An end is acknowledged when handle returns nil. After an error it is
// redelivered, for as long as the journal retains it: at the time that a
// *LaterError sets, or with a growing backoff. An end that can never be handled is
// terminated; see neverHandled.
func (j *Journal) Ends(ctx context.Context, reader Reader, handle func(context.Context, Delivery) error) error {
	// A counter that begins with 1 shows no increase, and no alert fires.
	j.terminated.WithLabelValues(reader.consumer)
	consumer, err := j.js.Consumer(ctx, j.name(Stream), reader.consumer)
	if err != nil {
		return j.failed("reach the consumer "+reader.consumer+reader.hint, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(64), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return j.failed("read the ends", err)
	}
	defer j.returnUnread(messages)
	group, ctx := errgroup.WithContext(ctx)
	for range reader.concurrency {
		group.Go(func() error {
			for {
				message, err := messages.Next(jetstream.NextContext(ctx))
				if err != nil {
					return j.failed("read the ends", err)
				}
				if err := j.settle(ctx, reader, message, handle); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// settle hands an end to its handler and acknowledges it accordingly. It returns
// an error only for what concerns every end, and so stops Ends: NATS cannot be
// reached, or ctx has ended. A handler with several destinations returns a
// *LaterError if one of them is unavailable, so that the others continue.
func (j *Journal) settle(ctx context.Context, reader Reader, message jetstream.Msg, handle func(context.Context, Delivery) error) error {
	attempt, failure := j.deliver(ctx, message, handle)
	if failure != nil && ctx.Err() == nil && neverHandled(failure, attempt) {
		j.terminate(reader, message, failure)
		return nil
	}
	if err := acknowledge(ctx, message, failure); err != nil {
		j.log.Debug("could not acknowledge an end; it is redelivered", "error", err)
	}
	_, set := errors.AsType[*LaterError](failure)
	switch {
	case failure == nil:
		return nil
	case ctx.Err() != nil || !set && deliberation.AsError(failure).Code == deliberation.Unavailable:
		return failure
	case !set && j.endFailures.Due(): // the handler logs what it sets a time for
		j.log.Warn("an end could not be handled; it is redelivered", "reader", reader.consumer, "subject", message.Subject(), "error", failure)
	}
	return nil
}

// lastAttempt bounds the attempts if the cause of the failure is not known.
const lastAttempt = 10

// neverHandled reports whether further deliveries of an end are useless. A missing
// dependency and a full store may recover, so these are redelivered for as long
// as the journal retains the end. Too large and not decodable remain so.
func neverHandled(failure error, attempt uint64) bool {
	if _, set := errors.AsType[*LaterError](failure); set {
		return false
	}
	if errors.Is(failure, errForeign) {
		return true
	}
	switch deliberation.AsError(failure).Code {
	case deliberation.Unavailable, deliberation.LimitReached:
		return false
	case deliberation.TooLarge:
		return true
	default:
		return attempt >= lastAttempt
	}
}

// terminate stops the deliveries of an end that can never be handled. Such ends
// would fill the consumer's MaxAckPending, and then block all others. The message
// remains in the journal; the log and the server's advisory (MSG_TERMINATED) name it.
func (j *Journal) terminate(reader Reader, message jetstream.Msg, failure error) {
	j.terminated.WithLabelValues(reader.consumer).Inc()
	var sequence uint64
	if metadata, err := message.Metadata(); err == nil {
		sequence = metadata.Sequence.Stream
	}
	j.log.Error("an end can never be handled, and is not delivered again; it remains in the journal", "reader", reader.consumer,
		"subject", message.Subject(), "sequence", sequence, "error", failure)
	if err := message.TermWithReason(oneLine(failure.Error())); err != nil {
		j.log.Debug("could not acknowledge an end", "error", err)
	}
}

// acknowledge acknowledges a handled end, and asks for the redelivery of another
// one. If the reader stops, the redelivery is immediate: another process takes
// it over without waiting for the ack wait.
func acknowledge(ctx context.Context, message jetstream.Msg, failure error) error {
	later, set := errors.AsType[*LaterError](failure)
	switch {
	case failure == nil:
		return message.Ack()
	case ctx.Err() != nil:
		return message.Nak()
	case set:
		return message.NakWithDelay(later.After)
	default:
		return message.NakWithDelay(redeliveryPause(message))
	}
}

// redeliveryPause is the backoff until the next delivery of a message. It
// depends on the server's count of deliveries, so it outlives this process.
func redeliveryPause(message jetstream.Msg) time.Duration {
	metadata, err := message.Metadata()
	if err != nil {
		return redeliverSlowest
	}
	return min(redeliverAfter<<min(metadata.NumDelivered-1, 16), redeliverSlowest)
}

// returnUnread stops reading and returns the messages that were fetched and not
// handled, so that another process need not wait for the ack wait.
func (j *Journal) returnUnread(messages jetstream.MessagesContext) {
	messages.Drain()
	for {
		message, err := messages.Next(jetstream.NextMaxWait(time.Second))
		if err != nil {
			return
		}
		if err := message.Nak(); err != nil {
			j.log.Debug("could not acknowledge an end", "error", err)
		}
	}
}

// deliver decodes an end, calls its handler, and returns which attempt that was.
// An end that cannot be decoded at all counts as a last attempt.
func (j *Journal) deliver(ctx context.Context, message jetstream.Msg, handle func(context.Context, Delivery) error) (attempt uint64, failure error) {
	metadata, err := message.Metadata()
	if err != nil {
		return lastAttempt, fmt.Errorf("read a journal message's metadata: %w", err)
	}
	entry, err := j.entry(ctx, &jetstream.RawStreamMsg{
		Subject: message.Subject(), Sequence: metadata.Sequence.Stream,
		Header: message.Headers(), Data: message.Data(), Time: metadata.Timestamp,
	})
	if err == nil {
		err = handle(ctx, Delivery{Entry: entry, TraceParent: events.Trace(message.Headers()), Attempt: metadata.NumDelivered})
	}
	return metadata.NumDelivered, err
}

// Announce publishes a message and waits until a stream has stored it: ours, or
// one of the fleet that has the subject. It is safe to repeat: the stream drops a
// message with the same id within its duplicate window. After the window a
// listener may read an end twice, and recognises it by the event id.
func (j *Journal) Announce(ctx context.Context, subject, id string, header map[string][]string, data []byte) error {
	return j.send(ctx, subject, header, data, jetstream.WithMsgID(id))
}

// send publishes a message and waits for the stream's acknowledgement.
func (j *Journal) send(ctx context.Context, subject string, header map[string][]string, data []byte, options ...jetstream.PublishOpt) error {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	message := &nats.Msg{Subject: subject, Header: header, Data: data}
	if _, err := j.js.PublishMsg(ctx, message, options...); err != nil {
		return j.failed("publish on "+subject, err)
	}
	return nil
}

// MaxAnnouncement is the largest data of an announcement in bytes: the server's
// limit, less the headers.
func (j *Journal) MaxAnnouncement() int { return j.maxData() }
