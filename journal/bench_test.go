package journal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/journal/journaltest"
)

// BenchmarkJournal measures with little and with much history behind: the
// cost must not grow.
func BenchmarkJournal(b *testing.B) {
	for _, history := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("stored=%d", history), func(b *testing.B) {
			w := setup(b)
			seed(b, w.server.URL, "seed", history)
			w.accept(b, "running", 3)
			w.start(b, "running", 1, time.Time{}, 0)
			w.agent(b, "running", 0, "yes")
			ledger := w.recount(b)
			ended := fmt.Sprintf("seed-%d", history/2)

			b.Run("Accept", func(b *testing.B) { benchAccept(b, w) })
			each(b, "Story/ended", func(ctx context.Context) error { _, err := w.Read(ctx, ended); return err })
			each(b, "Story/running", func(ctx context.Context) error { _, err := w.Read(ctx, "running"); return err })
			each(b, "ReadLeader", func(ctx context.Context) error { _, err := w.ReadLeader(ctx, ended); return err })
			each(b, "Watch/ended", func(ctx context.Context) error {
				return w.Watch(ctx, ended, 0, func(deliberation.Entry) error { return nil })
			})
			each(b, "Watch/until the first", func(ctx context.Context) error { return w.watchFirst(ctx, "running") })
			w.catchUp(b, ledger)
			each(b, "CatchUp/nothing", func(ctx context.Context) error { return w.CatchUp(ctx, ledger) })
			b.Run("CatchUp/one", func(b *testing.B) { benchCatchUp(b, w, ledger) })
			each(b, "Page/newest", func(ctx context.Context) error {
				_, _, err := w.Page(ctx, deliberation.Query{Size: 50})
				return err
			})
			each(b, "Page/nothing found", func(ctx context.Context) error {
				_, _, err := w.Page(ctx, deliberation.Query{Size: 50, State: deliberation.Failed, Before: uint64(history)})
				return err
			})
		})
	}
}

func each(b *testing.B, name string, call func(context.Context) error) {
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := call(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// accepts numbers the ids of every round.
var accepts int

func benchAccept(b *testing.B, w world) {
	b.ReportAllocs()
	for b.Loop() {
		accepts++
		if _, err := w.Accept(b.Context(), journaltest.Record(fmt.Sprintf("bench-%d", accepts), 3, 300), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func benchCatchUp(b *testing.B, w world, ledger *deliberation.Ledger) {
	b.ReportAllocs()
	for b.Loop() {
		accepts++
		w.accept(b, fmt.Sprintf("bench-%d", accepts), 1)
		w.catchUp(b, ledger)
	}
}

// watchFirst watches until the first event.
func (w world) watchFirst(ctx context.Context, id string) error {
	err := w.Watch(ctx, id, 0, func(entry deliberation.Entry) error {
		if entry.Event != nil {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		return err
	}
	return nil
}
