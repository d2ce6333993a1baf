package keeper

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/journal"
)

// RelayJournal is what the relay needs of the journal.
type RelayJournal interface {
	// PrepareRelay makes what the relay needs where it is not there yet.
	PrepareRelay(ctx context.Context, layout journal.Layout) error
	// Ends hands over each end at least once, several at a time; *LaterError
	// says when it comes again.
	Ends(ctx context.Context, reader journal.Reader, tell func(context.Context, journal.Delivery) error) error
	// Keep stores an end that the sink did not take.
	StoreUndelivered(ctx context.Context, end journal.Delivery, reason string) error
	// Undelivered reads what is kept, oldest first; of all where id is empty.
	ReadUndelivered(ctx context.Context, id string) iter.Seq2[journal.Undelivered, error]
	// Drop takes out what has been sent after all.
	DeleteUndelivered(ctx context.Context, kept journal.Undelivered) error
	// Now is the time on the journal's clock.
	Now(ctx context.Context) (time.Time, error)
	// MaxAnnouncement is the largest announcement, in bytes.
	MaxAnnouncement() int
	// Offload moves a message's bulky field to the object store.
	Offload(ctx context.Context, message proto.Message) (proto.Message, error)
}

const (
	// leastAttempts are made however old an end is: it may have waited for a
	// relay that was not there.
	leastAttempts = 10
	// lastPosts is how long what is being posted may go on when the relay
	// stops: cut off, it would be posted twice.
	lastPosts = 5 * time.Second
)

// RelayOptions are what the relay is told.
type RelayOptions struct {
	// Patience is how old an end may become before it is given up.
	Patience time.Duration
	// Layout is how what is not there yet is made.
	Layout journal.Layout
}

// Relay posts ends to a sink, each at least once, with the same event id each
// time. What the sink does not take is kept. Any number of relays share the
// ends.
type Relay struct {
	journal RelayJournal
	sink    *Sink
	options RelayOptions
	log     *slog.Logger

	complaints journal.Throttle
}

// NewRelay returns a relay.
func NewRelay(journal RelayJournal, sink *Sink, options RelayOptions, log *slog.Logger) *Relay {
	return &Relay{journal: journal, sink: sink, options: options, log: log}
}

// Run posts ends until ctx ends. While NATS is away it tries again.
func (r *Relay) Run(ctx context.Context) error {
	defer r.sink.Close()
	return always(ctx, r.log, "relay", func(ctx context.Context) error {
		if err := r.journal.PrepareRelay(ctx, r.options.Layout); err != nil {
			return err
		}
		return r.journal.Ends(ctx, journal.Relay, r.relay)
	})
}

// relay posts an end once; the journal hands it over again where that failed,
// so that how often it was tried outlives the relay.
func (r *Relay) relay(ctx context.Context, end journal.Delivery) error {
	ctx, done := lingering(ctx)
	defer done()
	err := r.post(ctx, end)
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	if refused.permanent || end.Attempt >= leastAttempts && r.tooOld(ctx, end) {
		return r.giveUp(ctx, end, refused)
	}
	r.complain(end, refused)
	return &journal.LaterError{After: retryPause(end.Attempt, refused.after), Cause: err}
}

// tooOld reports whether patience is over, by the clock that the end's time is
// from: this machine's may be another.
func (r *Relay) tooOld(ctx context.Context, end journal.Delivery) bool {
	now, err := r.journal.Now(ctx)
	return err == nil && now.Sub(end.Time) > r.options.Patience
}

// lingering returns a context that ends a moment after ctx does.
func lingering(ctx context.Context) (lasting context.Context, done func()) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastPosts, cancel) })
	return lasting, func() { stop(); cancel() }
}

func (r *Relay) post(ctx context.Context, end journal.Delivery) error {
	id, _, err := ended(end.Event)
	if err != nil {
		return err
	}
	e, err := endEvent(ctx, r.journal, end, id)
	if err != nil {
		return err
	}
	return r.sink.Post(ctx, e)
}

// giveUp keeps an end; only when it is kept is it done with.
func (r *Relay) giveUp(ctx context.Context, end journal.Delivery, refused *refusal) error {
	if err := r.journal.StoreUndelivered(ctx, end, refused.reason); err != nil {
		return err
	}
	id, _, _ := ended(end.Event)
	r.log.Error("the sink did not take an end; see `ray-executor relay list`", "deliberation", id, "attempts", end.Attempt, "reason", refused.reason)
	return nil
}

// complain says once a minute that the sink is in trouble.
func (r *Relay) complain(end journal.Delivery, refused *refusal) {
	if r.complaints.Due() {
		id, _, _ := ended(end.Event)
		r.log.Warn("the sink did not take an end; trying again", "deliberation", id, "attempt", end.Attempt, "reason", refused.reason)
	}
}

// Retry posts once what is kept of a deliberation, or all that is kept where
// id is empty, and drops what the sink takes. Each outcome is told.
func (r *Relay) Retry(ctx context.Context, id string, tell func(kept journal.Undelivered, refused error)) error {
	defer r.sink.Close()
	for kept, err := range r.journal.ReadUndelivered(ctx, id) {
		if err != nil && kept.ID == "" {
			return err
		}
		if err == nil { // else this one cannot be read, and keeps nothing from the others
			err = r.post(ctx, kept.Delivery)
		}
		if err == nil {
			err = r.journal.DeleteUndelivered(ctx, kept)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		tell(kept, err)
	}
	return nil
}
