// Package keeper does what must happen even when no worker and no caller is
// there: it announces ends, ends what is overdue, carries the statistics'
// snapshot forward, sets aside what was given up, and says when a Ray cluster is
// lost. Any number of keepers may run; the journal's
// compare-and-set keeps them out of each other's way.
package keeper

import (
	"context"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Journal is what the keeper needs of it.
type Journal interface {
	Announcements

	// Ledger returns the ledger as of the last snapshot, and its revision.
	Ledger(ctx context.Context) (ledger *deliberation.Ledger, revision uint64, err error)
	// Follow tells every mark from a sequence on until ctx ends or NATS is
	// away.
	Follow(ctx context.Context, from uint64, apply func(deliberation.Mark)) error
	// SaveSnapshot stores a snapshot unless another keeper was faster.
	SaveSnapshot(ctx context.Context, snapshot *pb.StatsSnapshot, revision uint64) (newRevision uint64, saved bool, err error)

	// Look is the journal's state, with the time on its clock.
	State(ctx context.Context) (journal.State, error)
	// ReadLeader folds one deliberation, for decisions.
	ReadLeader(ctx context.Context, id string) (*deliberation.History, error)
	// StoreDeadLetter stores a deliberation that was given up.
	StoreDeadLetter(ctx context.Context, story *deliberation.History) error
	// End appends an end unless one stands.
	End(ctx context.Context, id string, end proto.Message, traceParent string) (won bool, err error)
}

// Announcements is what it takes to tell of ends.
type Announcements interface {
	// Ends hands over each end at least once, until ctx ends or NATS is away.
	Ends(ctx context.Context, reader journal.Reader, tell func(context.Context, journal.Delivery) error) error
	// Announce stores what listeners hear, in whichever stream keeps it; a repeated
	// id is stored once within the duplicate window.
	Announce(ctx context.Context, subject, id string, header map[string][]string, data []byte) error
	// MaxAnnouncement is the largest announcement, in bytes.
	MaxAnnouncement() int
	// Offload moves a message's bulky field to the object store.
	Offload(ctx context.Context, message proto.Message) (proto.Message, error)
	// Story folds one deliberation, for what is told.
	Read(ctx context.Context, id string) (*deliberation.History, error)
}

// Keeper keeps one journal. Make it with New.
type Keeper struct {
	journal   Journal
	log       *slog.Logger
	responses bool
	clusters  *watch // nil: none

	complaints journal.Throttle // of responses that cannot be told
}

// Option is something that a keeper does on request.
type Option func(*Keeper)

// AgentResponses also tells of each agent, as the Python service did.
func AgentResponses() Option { return func(k *Keeper) { k.responses = true } }

// New returns a keeper.
func New(journal Journal, log *slog.Logger, options ...Option) *Keeper {
	k := &Keeper{journal: journal, log: log}
	for _, option := range options {
		option(k)
	}
	return k
}

// Run keeps the journal until ctx ends. While NATS is away it tries again.
func (k *Keeper) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return always(ctx, k.log, "announce", k.announceEnds) })
	group.Go(func() error { return always(ctx, k.log, "keep the ledger", k.keepLedger) })
	group.Go(func() error { return always(ctx, k.log, "set aside what is given up", k.keepDead) })
	if k.clusters != nil {
		group.Go(func() error { return k.clusters.run(ctx) })
	}
	if k.responses {
		group.Go(func() error { return always(ctx, k.log, "tell of each agent", k.tellAgents) })
	}
	return group.Wait()
}

// always runs a task again whenever it ends, with growing pauses, until ctx
// ends.
func always(ctx context.Context, log *slog.Logger, doing string, task func(context.Context) error) error {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 5 * time.Second
	var complaints journal.Throttle
	for {
		started := time.Now()
		err := task(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was asked to stop, and has
		}
		if time.Since(started) > time.Minute {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		if complaints.Due() {
			log.Warn("the keeper tries again, until it works", "doing", doing, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
