package keeper

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
)

const (
	// deadlineEvery is how often the keeper looks for overdue deliberations.
	deadlineEvery = time.Second
	// grace is how long after a deadline a worker may still write the end itself: a
	// worker knows more of its agents than the journal does.
	grace = 2 * time.Second
	// snapshotEvery is how often a snapshot is stored if the ledger has changed. A
	// snapshot lists what is open, so a large one is stored less often: one
	// snapshotEvery later for each snapshotOpen, up to snapshotSlowest. A reader
	// folds what came after the snapshot, so an old one costs it time, no accuracy.
	snapshotEvery   = 5 * time.Second
	snapshotOpen    = 20_000
	snapshotSlowest = 5 * time.Minute
	// publishOpenEvery is how often the number of open deliberations is published,
	// if it is near its limit.
	publishOpenEvery = 5 * time.Second
)

// openLedger is the ledger that a keeper folds the journal into, with the state
// of its snapshot. mu guards the ledger; the other fields belong to one task each.
type openLedger struct {
	mu       sync.Mutex
	ledger   *deliberation.Ledger
	revision uint64   // of the last snapshot
	saved    position // its position
	tried    time.Time
	near     bool // the last published number of open ones was near the limit

	warnings journal.Throttle // of ends that cannot be written
	failures journal.Throttle // of tasks that NATS did not answer in time
}

// position is how far a ledger is. What it forgets moves it without a message, so
// a journal that has become silent gets its last snapshot too.
type position struct {
	sequence  uint64
	forgotten int64
}

func positionOf(ledger *deliberation.Ledger) position {
	return position{ledger.Sequence(), ledger.Stats().GetForgottenDeliberations()}
}

func (p position) after(other position) bool {
	return p.sequence > other.sequence || p.sequence == other.sequence && p.forgotten > other.forgotten
}

// followJournal folds the journal into a ledger while it grows. Meanwhile it ends
// what is overdue and stores snapshots. If it cannot read on it fails, and starts
// again from the last snapshot, so its cost does not grow with the journal's
// history.
func (k *Keeper) followJournal(ctx context.Context) error {
	ledger, revision, err := k.journal.Ledger(ctx)
	if err != nil {
		return err
	}
	current := &openLedger{ledger: ledger, revision: revision, saved: positionOf(ledger)}
	defer k.totals.freeze(current)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return k.journal.Follow(ctx, ledger.Sequence()+1, func(mark deliberation.Mark) {
			current.mu.Lock()
			defer current.mu.Unlock()
			current.ledger.Apply(mark)
		})
	})
	task := func(interval time.Duration, name string, run func(context.Context, *openLedger) error) {
		group.Go(func() error {
			return every(ctx, interval, func() error { return k.unlessAway(current, name, run(ctx, current)) })
		})
	}
	task(deadlineEvery, "end what is overdue", k.endOverdue)
	task(snapshotEvery, "store a snapshot", k.snapshot)
	task(publishOpenEvery, "publish the number of open deliberations", k.publishOpen)
	if k.totals != nil {
		group.Go(func() error { return k.export(ctx, current) })
	}
	return group.Wait()
}

// unlessAway logs that NATS did not answer a task in time, and returns any other
// error. The task is repeated at its next interval with the same ledger: an older
// one would propose what has ended since. If NATS is away Follow fails.
func (k *Keeper) unlessAway(current *openLedger, name string, err error) error {
	if err == nil || deliberation.AsError(err).Code != deliberation.Unavailable {
		return err
	}
	if current.failures.Due() {
		k.log.Warn("a task failed and is repeated", "task", name, "error", err)
	}
	return nil
}

// every calls a function at intervals until it fails or ctx ends.
func every(ctx context.Context, interval time.Duration, call func() error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			if err := call(); err != nil {
				return err
			}
		}
	}
}

// snapshot stores the ledger. The compare-and-set on the revision lets one of
// several keepers win. The others adopt the revision of the stored snapshot, and
// store theirs only once their ledger is ahead of it: the snapshot never goes back.
func (k *Keeper) snapshot(ctx context.Context, current *openLedger) error {
	current.mu.Lock()
	at, open := positionOf(current.ledger), current.ledger.Stats().GetActiveDeliberations()
	if !at.after(current.saved) || time.Since(current.tried) < snapshotPause(open) {
		current.mu.Unlock()
		return nil
	}
	snapshot, err := current.ledger.Snapshot()
	current.mu.Unlock()
	if err != nil {
		return err
	}

	// The lock is not held while the snapshot is stored: the journal is folded on.
	current.tried = time.Now()
	revision, saved, err := k.journal.SaveSnapshot(ctx, snapshot, current.revision)
	if err != nil {
		return err
	}
	if saved {
		current.revision, current.saved = revision, at
		return nil
	}
	theirs, revision, err := k.journal.Ledger(ctx)
	if err != nil {
		return err
	}
	current.revision, current.saved = revision, positionOf(theirs)
	return nil
}

// publishOpen publishes how many deliberations are open, if that is near the limit
// or was at the last time.
func (k *Keeper) publishOpen(ctx context.Context, current *openLedger) error {
	current.mu.Lock()
	open := current.ledger.Stats().GetActiveDeliberations()
	current.mu.Unlock()
	near := open > journal.MaxOpen/2
	if !near && !current.near {
		return nil
	}
	if err := k.journal.PublishOpen(ctx, open); err != nil {
		return err
	}
	current.near = near
	return nil
}

// snapshotPause is the least time between two snapshots with so many open.
func snapshotPause(open int64) time.Duration {
	return min(time.Duration(open/snapshotOpen)*snapshotEvery, snapshotSlowest)
}
