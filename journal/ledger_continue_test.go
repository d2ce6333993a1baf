package journal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// A journal that was deleted and created again begins at sequence 1: a
// ledger and a snapshot of the old one must not wait for it to catch up.
func TestLedgerOfAnotherJournal(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for i := range 5 {
		w.accept(t, fmt.Sprintf("old%d", i), 1)
	}
	old := w.recount(t)
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, old), 0); err != nil || !saved {
		t.Fatal(saved, err)
	}
	_, js := journaltest.Dial(t, w.server.URL)
	if err := js.DeleteStream(t.Context(), journal.Stream); err != nil {
		t.Fatal(err)
	}
	if err := w.Deploy(t.Context(), journaltest.Layout()); err != nil {
		t.Fatal(err)
	}
	w.accept(t, "new", 1)

	wantCode(t, w.CatchUp(t.Context(), old), deliberation.Unavailable)
	fresh, revision := w.ledger(t)
	wantCounts(t, w.catchUp(t, fresh), 1, 1, 0, 0, 0, 0)
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, fresh), revision); err != nil || !saved {
		t.Errorf("the new journal's snapshot: saved %v, %v", saved, err)
	}
}

// TestLedgerBehindJournal has a reader that was idle while the journal counted and
// lost a hundred: the snapshot has them.
func TestLedgerBehindJournal(t *testing.T) {
	t.Parallel()
	w := setup(t)
	idle, revision := w.ledger(t)
	seed(t, w.server.URL, "seed", 100)
	w.accept(t, "open", 1)
	counted := w.catchUp(t, deliberation.NewLedger(nil))
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, counted), revision); err != nil || !saved {
		t.Fatal(saved, err)
	}
	_, js := journaltest.Dial(t, w.server.URL)
	stream := must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream))
	if err := stream.Purge(t.Context()); err != nil { // as its age does
		t.Fatal(err)
	}
	w.accept(t, "new1", 1)
	w.accept(t, "new2", 1)
	if err := w.CatchUp(t.Context(), idle); !errors.Is(err, deliberation.ErrOtherLedger) {
		t.Errorf("a ledger that lost a hundred continues with %v", err)
	}
	fresh, _ := w.ledger(t)
	stats := w.catchUp(t, fresh).Stats()
	if stats.GetTotalDeliberations() != 103 || stats.GetActiveDeliberations() != 2 || stats.GetForgottenDeliberations() != 1 {
		t.Errorf("the statistics are %v", stats)
	}
}

// TestJournalIdentifiedByCreation: one whose last sequence is below the
// snapshot is the same, and is not counted from the beginning.
func TestJournalIdentifiedByCreation(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	ahead := journaltest.Message(t, w.recount(t))
	ahead.Sequence, ahead.Total, ahead.Completed = 1000, 500, 499
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, deliberation.NewLedger(ahead)), 0); err != nil || !saved {
		t.Fatal(saved, err)
	}
	same, _ := w.ledger(t)
	w.accept(t, "d2", 1)
	if stats := w.catchUp(t, same).Stats(); stats.GetTotalDeliberations() != 501 || stats.GetActiveDeliberations() != 2 {
		t.Errorf("the same journal, which has lost its end: %v", stats)
	}
	_, js := journaltest.Dial(t, w.server.URL)
	if err := js.DeleteStream(t.Context(), journal.Stream); err != nil {
		t.Fatal(err)
	}
	if err := w.Deploy(t.Context(), journaltest.Layout()); err != nil {
		t.Fatal(err)
	}
	if err := w.CatchUp(t.Context(), same); !errors.Is(err, deliberation.ErrOtherLedger) {
		t.Errorf("another journal: %v", err)
	}
	other, _ := w.ledger(t)
	wantCounts(t, w.catchUp(t, other), 0, 0, 0, 0, 0, 0)
}

// TestCatchUpSlowly: a call continues where the last one had no more time.
func TestCatchUpSlowly(t *testing.T) {
	t.Parallel()
	w := setup(t)
	seed(t, w.server.URL, "seed", 5000)
	ledger, _ := w.ledger(t)
	for calls := 0; ; calls++ {
		before := ledger.Sequence()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := w.CatchUp(ctx, ledger)
		cancel()
		if err == nil {
			break
		}
		if ledger.Sequence() < before || calls > 500 {
			t.Fatalf("call %d got from %d to %d", calls, before, ledger.Sequence())
		}
	}
	wantCounts(t, ledger, 5000, 0, 0, 5000, 0, 0)
}

// TestUnreadableSnapshot is replaced: without a ledger no deadline holds.
func TestUnreadableSnapshot(t *testing.T) {
	t.Parallel()
	for name, snapshot := range map[string][]byte{
		"no snapshot":        []byte("\xff\xff"),
		"its object is gone": must[[]byte](t)(proto.Marshal(&pb.StatsSnapshot{Sequence: 1, Total: 9, OpenRef: "sha256-gone"})),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			w.accept(t, "d1", 1)
			_, js := journaltest.Dial(t, w.server.URL)
			bucket := must[jetstream.KeyValue](t)(js.KeyValue(t.Context(), journal.Statistics))
			must[uint64](t)(bucket.Put(t.Context(), "snapshot", snapshot))
			ledger, revision := w.ledger(t)
			wantCounts(t, w.catchUp(t, ledger), 1, 1, 0, 0, 0, 0)
			if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, ledger), revision); err != nil || !saved {
				t.Errorf("saved %v, %v", saved, err)
			}
		})
	}
}
