// Package keeper does what must happen even when no worker and no caller is
// running: it announces ends, ends overdue deliberations, stores the snapshot of
// the statistics, stores dead letters, and reports lost Ray clusters.
//
// Any number of keepers may run, without a leader among them. Whatever they write
// is idempotent: ends and snapshots are decided by the journal's compare-and-set,
// announcements carry a fixed id, and the consumers of ends are shared. A keeper
// has no state that the next one needs, so it may be killed at any moment.
//
// The relay to K_SINK is a part of its own: keeper/relay.
package keeper

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/keeper/internal/delivery"
)

// Journal is the part of the journal that the keeper uses. Errors are
// *deliberation.Error, Unavailable while NATS is away.
type Journal interface {
	Announcements

	// Ledger returns the ledger as of the last snapshot, and its revision.
	Ledger(ctx context.Context) (ledger *deliberation.Ledger, revision uint64, err error)
	// Follow calls apply with every mark from a sequence on, in order, until ctx
	// ends or NATS is away.
	Follow(ctx context.Context, from uint64, apply func(deliberation.Mark)) error
	// SaveSnapshot stores a snapshot if the stored one still has the revision. saved
	// is false if another keeper has replaced it.
	SaveSnapshot(ctx context.Context, snapshot deliberation.Snapshot, revision uint64) (newRevision uint64, saved bool, err error)

	// PublishOpen publishes how many deliberations are open, for the limit of
	// journal.MaxOpen. It is safe to repeat.
	PublishOpen(ctx context.Context, open int64) error

	// State is the range of the journal, with the time on its clock.
	State(ctx context.Context) (journal.State, error)
	// Fill reads how full the journal is; before is its last result.
	Fill(ctx context.Context, before journal.Fill) (journal.Fill, error)
	// ReadLeader reads one deliberation from the leader, for decisions.
	ReadLeader(ctx context.Context, id string) (*deliberation.History, error)
	// StoreDeadLetter stores a deliberation that ended after too many lost workers.
	// Repeating it is safe. LimitReached: the store is full.
	StoreDeadLetter(ctx context.Context, history *deliberation.History) error
	// End appends an end unless one exists; won reports whether it did. Repeating it
	// is safe.
	End(ctx context.Context, id string, end proto.Message, traceParent string) (won bool, err error)
}

// Announcements is the part of the journal that delivers ends to listeners.
type Announcements interface {
	// Ends calls handle with each end at least once, several at a time, until ctx
	// ends or NATS is away. A nil error acknowledges the end, any other has it
	// redelivered.
	Ends(ctx context.Context, reader journal.Reader, handle func(context.Context, journal.Delivery) error) error
	// Announce stores a message in whichever stream covers the subject. A repeated
	// id is stored once within that stream's duplicate window.
	Announce(ctx context.Context, subject, id string, header map[string][]string, data []byte) error
	// MaxAnnouncement is the largest announcement, in bytes.
	MaxAnnouncement() int
	// Offload moves a message's bulky field to the object store.
	Offload(ctx context.Context, message proto.Message) (proto.Message, error)
	// Read reads one deliberation from any replica.
	Read(ctx context.Context, id string) (*deliberation.History, error)
}

// Keeper does the housekeeping of one journal. Make it with New.
type Keeper struct {
	journal   Journal
	log       *slog.Logger
	responses bool
	clusters  *watch  // nil: none
	totals    *totals // nil: not exported

	warnings journal.Throttle // of responses that cannot be published
}

// Option adds a task to a keeper.
type Option func(*Keeper)

// AgentResponses also publishes a message for each agent of an end, in the form
// of the Python service.
func AgentResponses() Option { return func(k *Keeper) { k.responses = true } }

// New returns a keeper.
func New(journal Journal, log *slog.Logger, options ...Option) *Keeper {
	k := &Keeper{journal: journal, log: log}
	for _, option := range options {
		option(k)
	}
	return k
}

// Run runs the tasks until ctx ends. Each is repeated by itself when it fails, so
// one that cannot work (a full bucket, a missing consumer) stops no other.
func (k *Keeper) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return delivery.Repeat(ctx, k.log, "announce ends", k.announceEnds) })
	group.Go(func() error { return delivery.Repeat(ctx, k.log, "follow the journal", k.followJournal) })
	group.Go(func() error { return delivery.Repeat(ctx, k.log, "store dead letters", k.storeDeadLetters) })
	if k.clusters != nil {
		group.Go(func() error { return k.clusters.run(ctx) })
	}
	if k.totals != nil {
		group.Go(func() error { return delivery.Repeat(ctx, k.log, "read how full the journal is", k.readFill) })
	}
	if k.responses {
		group.Go(func() error { return delivery.Repeat(ctx, k.log, "publish agent responses", k.publishResponses) })
	}
	return group.Wait()
}
