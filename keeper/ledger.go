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
	// tick is how often deadlines are looked at.
	tick = time.Second
	// grace is how long the workers have to write an end at the deadline
	// themselves.
	grace = 2 * time.Second
	// snapshotEvery is how often a snapshot is stored if anything happened. One
	// that is large, as much is open, is stored less often: as much later for each
	// snapshotOpen, up to snapshotSlowest. Whoever reads it counts on from there.
	snapshotEvery   = 5 * time.Second
	snapshotOpen    = 20_000
	snapshotSlowest = 5 * time.Minute
)

// book is the ledger as it is being kept.
type book struct {
	mu       sync.Mutex
	ledger   *deliberation.Ledger
	revision uint64 // of the last snapshot
	saved    uint64 // the sequence that it has
	tried    time.Time

	complaints journal.Throttle // of ends that cannot be written
}

// keepLedger folds the journal as it grows, and looks at what is overdue and
// at the snapshot meanwhile.
func (k *Keeper) keepLedger(ctx context.Context) error {
	ledger, revision, err := k.journal.Ledger(ctx)
	if err != nil {
		return err
	}
	kept := &book{ledger: ledger, revision: revision, saved: ledger.Sequence()}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return k.journal.Follow(ctx, ledger.Sequence()+1, func(mark deliberation.Mark) {
			kept.mu.Lock()
			defer kept.mu.Unlock()
			kept.ledger.Apply(mark)
		})
	})
	group.Go(func() error { return every(ctx, tick, func() error { return k.endOverdue(ctx, kept) }) })
	group.Go(func() error { return every(ctx, snapshotEvery, func() error { return k.snapshot(ctx, kept) }) })
	return group.Wait()
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

// snapshot stores how far the ledger has come. A keeper that was overtaken goes
// on from the newer snapshot: it never goes back.
func (k *Keeper) snapshot(ctx context.Context, kept *book) error {
	kept.mu.Lock()
	open := kept.ledger.Stats().GetActiveDeliberations()
	if kept.ledger.Sequence() <= kept.saved || time.Since(kept.tried) < snapshotPause(open) {
		kept.mu.Unlock()
		return nil
	}
	snapshot := kept.ledger.Snapshot()
	kept.mu.Unlock()

	kept.tried = time.Now()
	revision, saved, err := k.journal.SaveSnapshot(ctx, snapshot, kept.revision)
	if err != nil {
		return err
	}
	if saved {
		kept.revision, kept.saved = revision, snapshot.GetSequence()
		return nil
	}
	theirs, revision, err := k.journal.Ledger(ctx)
	if err != nil {
		return err
	}
	kept.revision, kept.saved = revision, theirs.Sequence()
	return nil
}

// snapshotPause is how long a snapshot waits at least after the one before.
func snapshotPause(open int64) time.Duration {
	return min(time.Duration(open/snapshotOpen)*snapshotEvery, snapshotSlowest)
}
