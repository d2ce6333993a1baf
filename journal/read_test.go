package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (w world) start(t testing.TB, id string, attempt int32, first time.Time, before uint64) uint64 {
	t.Helper()
	sequence, stored, err := w.worker.Started(t.Context(), id, attempt, first, before)
	if err != nil || !stored {
		t.Fatalf("start %d of %s: %v, %v", attempt, id, stored, err)
	}
	return sequence
}

func (w world) agent(t testing.TB, id string, index int, proposal string) {
	t.Helper()
	if stored := must[bool](t)(w.worker.Agent(t.Context(), id, index, proposal)); !stored {
		t.Fatalf("agent %d of %s is stored already", index, id)
	}
}

// wantBoth compares the answers of any replica and of the leader with one
// expectation.
func (w world) wantBoth(t *testing.T, id string, want func(*pb.GetDeliberationStatusResponse) string) *deliberation.History {
	t.Helper()
	history := w.history(t, id)
	leader := must[*deliberation.History](t)(w.ReadLeader(t.Context(), id))
	wantEqual(t, leader.Status(id), history.Status(id))
	if wrong := want(history.Status(id)); wrong != "" {
		t.Errorf("%s: %s", wrong, history.Status(id))
	}
	return history
}

func status(state string, results ...string) func(*pb.GetDeliberationStatusResponse) string {
	return func(got *pb.GetDeliberationStatusResponse) string {
		var proposals []string
		for _, result := range got.GetResults() {
			proposals = append(proposals, result.GetProposal())
		}
		if got.GetStatus() != state || fmt.Sprint(proposals) != fmt.Sprint(results) {
			return fmt.Sprintf("want %s with %q", state, results)
		}
		return ""
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.wantBoth(t, "d1", status("not_found"))

	w.accept(t, "d1", 3)
	w.wantBoth(t, "d1", status("queued"))

	first := w.start(t, "d1", 1, time.Time{}, 0)
	started := w.wantBoth(t, "d1", status("running"))
	w.agent(t, "d1", 2, "two")
	w.agent(t, "d1", 0, "zero")
	w.wantBoth(t, "d1", status("running", "zero", "two"))

	second := w.start(t, "d1", 2, started.Started, first)
	again := w.wantBoth(t, "d1", status("running", "zero", "two"))
	if again.Attempts != 2 || !again.Started.Equal(started.Started) || again.Cluster != "here" {
		t.Errorf("after a second start: %+v", again)
	}

	if won := must[bool](t)(w.worker.Completed(t.Context(), "d1",
		journaltest.Result(0, "zero"), journaltest.Result(1, ""), journaltest.Result(2, "two"))); !won {
		t.Fatal("it did not end")
	}
	ended := w.wantBoth(t, "d1", status("completed", "zero", "", "two"))

	// A worker that was paused comes back.
	w.agent(t, "d1", 1, "late")
	w.start(t, "d1", 3, started.Started, second)
	late := w.wantBoth(t, "d1", status("completed", "zero", "", "two"))
	wantEqual(t, late.Status("d1"), ended.Status("d1"))
}

func TestReadManyAgents(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 256)
	w.start(t, "d1", 1, time.Time{}, 0)
	for i := range 256 {
		w.agent(t, "d1", i, fmt.Sprint(i))
	}
	history := w.wantBoth(t, "d1", func(got *pb.GetDeliberationStatusResponse) string {
		for i, result := range got.GetResults() {
			if result.GetProposal() != fmt.Sprint(i) {
				return fmt.Sprintf("result %d is out of order", i)
			}
		}
		return ""
	})
	if n := len(history.Results()); n != 256 {
		t.Errorf("%d results, want 256", n)
	}
}

// TestReadSeveralBatches reads a history larger than what the server sends at
// once: its tail must not be missing.
func TestReadSeveralBatches(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const agents = 20
	w.accept(t, "d1", agents)
	bulk := strings.Repeat("x", 900<<10)
	for i := range agents {
		w.agent(t, "d1", i, bulk)
	}
	if n := len(w.history(t, "d1").Results()); n != agents {
		t.Errorf("%d results, want %d", n, agents)
	}
}

func TestReadStopsWithContext(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"history": func() error { _, err := w.Read(ctx, "d1"); return err },
		"leader":  func() error { _, err := w.ReadLeader(ctx, "d1"); return err },
		"page":    func() error { _, _, err := w.Page(ctx, deliberation.Query{Size: 10}); return err },
		"accept":  func() error { _, err := w.Accept(ctx, journaltest.Record("d2", 1, 1), ""); return err },
		"ledger":  func() error { _, _, err := w.Ledger(ctx); return err },
		"follow":  func() error { return w.Follow(ctx, 1, func(deliberation.Mark) {}) },
		"ends": func() error {
			return w.Ends(ctx, journal.Announcer, func(context.Context, journal.Delivery) error { return nil })
		},
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want that it was cancelled", name, err)
		}
	}
}
