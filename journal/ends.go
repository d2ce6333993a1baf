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

// Delivery is an end to be announced.
type Delivery struct {
	deliberation.Entry
	TraceParent string
	// Attempt counts how often this end was handed to this reader, from 1.
	Attempt uint64
}

// Reader is who hears of the ends. Each has a durable consumer of its own, so
// that one that is slow or stuck keeps nothing from the others.
type Reader struct {
	consumer string
	// made says when the consumer is there, for whoever misses it.
	made string
	// atOnce is how many ends are told at the same time.
	atOnce int
}

// The readers.
var (
	// Announcer tells who listens.
	Announcer = Reader{consumer: "keeper-announce", atOnce: 16}
	// Responder tells of each agent: deploy makes its consumer while
	// AGENT_RESPONSES=true.
	Responder = Reader{consumer: "keeper-responses", made: " (deploy makes it while AGENT_RESPONSES=true)", atOnce: 16}
	// GivenUp sets aside what was given up.
	DeadLetterWriter = Reader{consumer: "keeper-dead", atOnce: 4}
	// Relay posts the ends to a sink. See PrepareRelay.
	Relay = Reader{consumer: "relay", atOnce: 64}
)

// LaterError is the error that sets when an end comes again.
type LaterError struct {
	After time.Duration
	Cause error
}

func (l *LaterError) Error() string { return fmt.Sprintf("again in %s: %v", l.After, l.Cause) }

// Unwrap returns the cause.
func (l *LaterError) Unwrap() error { return l.Cause }

// An end whose announcement failed comes again after redeliverAfter, and
// later each time.
const (
	redeliverAfter   = 2 * time.Second
	redeliverSlowest = 5 * time.Minute
)

// Ends hands each end to tell, at least once, until ctx ends or NATS is away;
// at once as many as the reader allows. Several callers share a reader's ends
// among them. An end is done with when tell returns nil; otherwise it comes
// again, for as long as the journal keeps it: when a *LaterError says so, or
// else later each time.
func (j *Journal) Ends(ctx context.Context, reader Reader, tell func(context.Context, Delivery) error) error {
	consumer, err := j.js.Consumer(ctx, j.name(Stream), reader.consumer)
	if err != nil {
		return j.failed("reach the consumer "+reader.consumer+reader.made, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(64), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return j.failed("read the ends", err)
	}
	defer j.giveBack(messages)
	group, ctx := errgroup.WithContext(ctx)
	for range reader.atOnce {
		group.Go(func() error {
			for {
				message, err := messages.Next(jetstream.NextContext(ctx))
				if err != nil {
					return j.failed("read the ends", err)
				}
				if err := j.settle(ctx, reader, message, tell); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// settle has an end announced and tells the server how it went. Only what
// concerns every end is an error: NATS is away, or ctx has ended. Who has
// several destinations sets a time where one of them does not answer.
func (j *Journal) settle(ctx context.Context, reader Reader, message jetstream.Msg, announce func(context.Context, Delivery) error) error {
	attempt, failure := j.deliver(ctx, message, announce)
	if failure != nil && ctx.Err() == nil && hopeless(failure, attempt) {
		j.terminate(reader, message, failure)
		return nil
	}
	if err := conclude(ctx, message, failure); err != nil {
		j.log.Debug("answer to the journal", "error", err)
	}
	_, set := errors.AsType[*LaterError](failure)
	switch {
	case failure == nil:
		return nil
	case ctx.Err() != nil || !set && deliberation.AsError(failure).Code == deliberation.Unavailable:
		return failure
	case !set && j.complaints.Due(): // who sets a time has its own say
		j.log.Warn("an end could not be told; it comes again", "reader", reader.consumer, "subject", message.Subject(), "error", failure)
	}
	return nil
}

// lastAttempt is how often an end is tried whose failure was not foreseen.
const lastAttempt = 10

// hopeless reports whether an end can never be told. What waits for a
// dependency or for room comes again for as long as the journal keeps it.
func hopeless(failure error, attempt uint64) bool {
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

// terminate sets aside what can never be told: it would come again until it has
// taken the place of all others. The message stays in the journal, where the log
// and the server's advisory (MSG_TERMINATED) say which it is.
func (j *Journal) terminate(reader Reader, message jetstream.Msg, failure error) {
	j.terminated.WithLabelValues(reader.consumer).Inc()
	var sequence uint64
	if metadata, err := message.Metadata(); err == nil {
		sequence = metadata.Sequence.Stream
	}
	j.log.Error("an end can never be told, and is set aside; the journal keeps it", "reader", reader.consumer,
		"subject", message.Subject(), "sequence", sequence, "error", failure)
	if err := message.TermWithReason(oneLine(failure.Error())); err != nil {
		j.log.Debug("answer to the journal", "error", err)
	}
}

// conclude says whether a message is done with, and else when it comes again. One
// that was given up because its reader stops is for another reader at once.
func conclude(ctx context.Context, message jetstream.Msg, failure error) error {
	later, set := errors.AsType[*LaterError](failure)
	switch {
	case failure == nil:
		return message.Ack()
	case ctx.Err() != nil:
		return message.Nak()
	case set:
		return message.NakWithDelay(later.After)
	default:
		return message.NakWithDelay(pause(message))
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

// deliver hands an end over, and tells which attempt that was.
func (j *Journal) deliver(ctx context.Context, message jetstream.Msg, announce func(context.Context, Delivery) error) (attempt uint64, failure error) {
	metadata, err := message.Metadata()
	if err != nil {
		return lastAttempt, fmt.Errorf("read a journal message's metadata: %w", err)
	}
	entry, err := j.entry(ctx, &jetstream.RawStreamMsg{
		Subject: message.Subject(), Sequence: metadata.Sequence.Stream,
		Header: message.Headers(), Data: message.Data(), Time: metadata.Timestamp,
	})
	if err == nil {
		err = announce(ctx, Delivery{Entry: entry, TraceParent: events.Trace(message.Headers()), Attempt: metadata.NumDelivered})
	}
	return metadata.NumDelivered, err
}

// Announce publishes to whichever stream keeps the subject, ours or the fleet's
// own, and waits until it is stored. The server drops a repeat of the same id
// within that stream's duplicate window.
func (j *Journal) Announce(ctx context.Context, subject, id string, header map[string][]string, data []byte) error {
	return j.send(ctx, subject, header, data, jetstream.WithMsgID(id))
}

func (j *Journal) send(ctx context.Context, subject string, header map[string][]string, data []byte, options ...jetstream.PublishOpt) error {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	message := &nats.Msg{Subject: subject, Header: header, Data: data}
	if _, err := j.js.PublishMsg(ctx, message, options...); err != nil {
		return j.failed("announce on "+subject, err)
	}
	return nil
}

// MaxAnnouncement is the largest announcement in bytes: what the server takes,
// less room for headers.
func (j *Journal) MaxAnnouncement() int { return j.maxData() }
