// Package relay posts the ends of deliberations to a sink over HTTP, as
// CloudEvents: K_SINK, which Knative's SinkBinding injects.
//
// Each end is posted at least once, with the same event id each time. The journal
// redelivers an end until the relay acknowledges it, and counts the attempts, so
// nothing is lost and no count restarts when a relay dies. An end that the sink
// refuses for good, or for too long, is stored as an undelivered end until
// somebody posts it again (Resend). Relays need no coordination: they share one
// consumer, and each end goes to one of them.
package relay

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/journal"
	"rayexecutor/keeper/internal/delivery"
)

// Journal is the part of the journal that the relay uses.
type Journal interface {
	// PrepareRelay creates the stream and the consumer of the relay if they are
	// missing. It changes nothing that exists; repeating it is safe.
	PrepareRelay(ctx context.Context, layout journal.Layout) error
	// Ends calls handle with each end at least once, several at a time, until ctx
	// ends or NATS is away. A nil error acknowledges the end; *LaterError sets when
	// it is redelivered.
	Ends(ctx context.Context, reader journal.Reader, handle func(context.Context, journal.Delivery) error) error
	// StoreUndelivered stores an end that the sink did not take. A later one of the
	// same deliberation replaces it; repeating it is safe.
	StoreUndelivered(ctx context.Context, end journal.Delivery, reason string) error
	// ReadUndelivered reads the undelivered ends, oldest first: that of one
	// deliberation, or all where id is empty. An error with an ID concerns that end
	// alone.
	ReadUndelivered(ctx context.Context, id string) iter.Seq2[journal.Undelivered, error]
	// DeleteUndelivered deletes an undelivered end that was posted. Repeating it is
	// safe.
	DeleteUndelivered(ctx context.Context, end journal.Undelivered) error
	// Now is the time on the journal's clock.
	Now(ctx context.Context) (time.Time, error)
	// MaxAnnouncement is the largest announcement, in bytes.
	MaxAnnouncement() int
	// Offload moves a message's bulky field to the object store.
	Offload(ctx context.Context, message proto.Message) (proto.Message, error)
}

const (
	// minAttempts are made however old an end is: it may have waited in the journal
	// while no relay ran.
	minAttempts = 10
	// stopGrace is how long posts in flight may last when the relay stops. A post
	// that is cut off is repeated by the next relay, although the sink may have it.
	stopGrace = 5 * time.Second
)

// Options configure a relay.
type Options struct {
	// Patience is the age at which the relay stops posting an end and stores it as
	// undelivered.
	Patience time.Duration
	// Layout configures the stream and consumer that the relay creates if they are
	// missing.
	Layout journal.Layout
}

// Relay posts ends to a sink. Make it with New.
type Relay struct {
	journal Journal
	sink    *Sink
	options Options
	log     *slog.Logger

	warnings journal.Throttle // of a sink that refuses
}

// New returns a relay.
func New(journal Journal, sink *Sink, options Options, log *slog.Logger) *Relay {
	return &Relay{journal: journal, sink: sink, options: options, log: log}
}

// Run posts ends until ctx ends. While NATS is away it retries.
func (r *Relay) Run(ctx context.Context) error {
	defer r.sink.Close()
	return delivery.Repeat(ctx, r.log, "relay", func(ctx context.Context) error {
		if err := r.journal.PrepareRelay(ctx, r.options.Layout); err != nil {
			return err
		}
		return r.journal.Ends(ctx, journal.Relay, r.relay)
	})
}

// relay posts an end once. It does not retry here: the journal redelivers the end
// after the pause of the error, so the count of attempts outlives the relay.
func (r *Relay) relay(ctx context.Context, end journal.Delivery) error {
	ctx, done := withGrace(ctx)
	defer done()
	err := r.post(ctx, end)
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	if refused.permanent || end.Attempt >= minAttempts && r.isTooOld(ctx, end) {
		return r.storeUndelivered(ctx, end, refused)
	}
	if r.warnings.Due() {
		r.log.Warn("the sink refused an end; retrying", "deliberation", idOf(end), "attempt", end.Attempt, "reason", refused.reason)
	}
	return &journal.LaterError{After: delivery.Pause(end.Attempt, refused.after), Cause: err}
}

// isTooOld reports whether an end is older than Patience on the journal's clock,
// which its time comes from. If the clock cannot be read the end is retried.
func (r *Relay) isTooOld(ctx context.Context, end journal.Delivery) bool {
	now, err := r.journal.Now(ctx)
	return err == nil && now.Sub(end.Time) > r.options.Patience
}

// withGrace returns a context that ends stopGrace after ctx.
func withGrace(ctx context.Context) (lasting context.Context, done func()) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, cancel) })
	return lasting, func() { stop(); cancel() }
}

func (r *Relay) post(ctx context.Context, end journal.Delivery) error {
	e, err := delivery.EndEvent(ctx, r.journal, end)
	if err != nil {
		return err
	}
	return r.sink.Post(ctx, e)
}

// storeUndelivered stores an end. The end is acknowledged only after that
// succeeded, so one of the two streams always has it.
func (r *Relay) storeUndelivered(ctx context.Context, end journal.Delivery, refused *refusal) error {
	if err := r.journal.StoreUndelivered(ctx, end, refused.reason); err != nil {
		return err
	}
	r.log.Error("an end is stored as undelivered; see `ray-executor relay list`",
		"deliberation", idOf(end), "attempts", end.Attempt, "reason", refused.reason)
	return nil
}

func idOf(end journal.Delivery) string {
	id, _, _ := delivery.Ended(end.Event) // for logs
	return id
}
