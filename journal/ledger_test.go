package journal_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/gate"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

func (w world) ledger(t testing.TB) (*deliberation.Ledger, uint64) {
	t.Helper()
	ledger, revision, err := w.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ledger, revision
}

func (w world) catchUp(t testing.TB, ledger *deliberation.Ledger) *deliberation.Ledger {
	t.Helper()
	if err := w.CatchUp(t.Context(), ledger); err != nil {
		t.Fatal(err)
	}
	return ledger
}

func (w world) recount(t testing.TB) *deliberation.Ledger {
	t.Helper()
	return w.catchUp(t, deliberation.NewLedger(nil))
}

func wantCounts(t testing.TB, ledger *deliberation.Ledger, total, queued, running, completed, failed, cancelled int64) {
	t.Helper()
	stats := ledger.Stats()
	stats.AverageExecutionTimeMs = 0
	wantEqual(t, stats, &pb.RayExecutorStats{
		TotalDeliberations: total, ActiveDeliberations: queued + running, QueuedDeliberations: queued,
		CompletedDeliberations: completed, FailedDeliberations: failed, CancelledDeliberations: cancelled,
	})
}

func TestCatchUp(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ledger := w.recount(t)
	wantCounts(t, ledger, 0, 0, 0, 0, 0, 0)
	for i := range 5 {
		w.accept(t, fmt.Sprintf("d%d", i), 1)
	}
	wantCounts(t, w.catchUp(t, ledger), 5, 5, 0, 0, 0, 0)
	w.start(t, "d0", 1, time.Time{}, 0)
	w.start(t, "d1", 1, time.Time{}, 0)
	w.agent(t, "d0", 0, "yes")
	must[bool](t)(w.End(t.Context(), "d0", completed("d0"), ""))
	must[bool](t)(w.End(t.Context(), "d2", cancelled("d2"), ""))
	must[bool](t)(w.End(t.Context(), "d3", failed("d3"), ""))
	w.agent(t, "d1", 0, "the last message is an agent's")
	wantCounts(t, w.catchUp(t, ledger), 5, 1, 1, 1, 1, 1)
	wantCounts(t, w.catchUp(t, ledger), 5, 1, 1, 1, 1, 1)
	wantEqual(t, journaltest.Message(t, w.recount(t)), journaltest.Message(t, ledger))
}

func TestCatchUpSkipsForeignMessages(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, js := journaltest.Dial(t, w.server.URL)
	w.accept(t, "d1", 1)
	must[*jetstream.PubAck](t)(js.Publish(t.Context(), "deliberation.foreign.x.d1", nil))
	w.accept(t, "d2", 1)
	must[*jetstream.PubAck](t)(js.Publish(t.Context(), "deliberation.foreign.x.d1", nil))
	wantCounts(t, w.recount(t), 2, 2, 0, 0, 0, 0)
}

// TestCatchUpAfterDeletion counts after an operator deleted deliberations, the
// last one among them.
func TestCatchUpAfterDeletion(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, js := journaltest.Dial(t, w.server.URL)
	stream := must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream))
	for i := range 4 {
		w.accept(t, fmt.Sprintf("d%d", i), 1)
	}
	for _, id := range []string{"d1", "d3"} {
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("deliberation.*.*."+id)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	ledger := deliberation.NewLedger(nil)
	if err := w.CatchUp(ctx, ledger); err != nil {
		t.Fatal(err)
	}
	wantCounts(t, ledger, 2, 2, 0, 0, 0, 0)
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCounts(t, w.recount(t), 0, 0, 0, 0, 0, 0)
	w.wantBoth(t, "d0", status("not_found"))
}

// TestCatchUpSearchesNothing: after a deletion the leader is asked for its last
// sequence. A search for the last message reads every block of a large journal.
func TestCatchUpSearchesNothing(t *testing.T) {
	t.Parallel()
	w := setup(t)
	conn, js := journaltest.Dial(t, w.server.URL)
	for i := range 3 {
		w.accept(t, fmt.Sprintf("d%d", i), 1)
	}
	stream := must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream))
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject("deliberation.*.*.d1")); err != nil {
		t.Fatal(err)
	}
	requests := must[*nats.Subscription](t)(conn.SubscribeSync("$JS.API.STREAM.MSG.GET." + journal.Stream))
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	wantCounts(t, w.recount(t), 2, 2, 0, 0, 0, 0)
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if message, err := requests.NextMsg(time.Minute); err != nil || string(message.Data) != `{"seq":3}` {
		t.Fatalf("the first request is %v, %v", message, err)
	}
	if pending, _, err := requests.Pending(); err != nil || pending != 0 {
		t.Errorf("%d requests more, %v", pending, err)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	w.start(t, "d1", 1, time.Time{}, 0)
	w.accept(t, "d2", 1)
	ledger, revision := w.ledger(t)
	if revision != 0 || ledger.Sequence() != 0 {
		t.Fatalf("revision %d, sequence %d before any snapshot", revision, ledger.Sequence())
	}
	first, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, w.catchUp(t, ledger)), revision)
	if err != nil || !saved {
		t.Fatalf("first: %v, %v", saved, err)
	}
	for _, stale := range []uint64{0, first + 1} {
		if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, ledger), stale); err != nil || saved {
			t.Errorf("saved over revision %d: %v, %v", stale, saved, err)
		}
	}
	must[bool](t)(w.End(t.Context(), "d1", completed("d1"), ""))
	restored, revision := w.ledger(t)
	if revision != first {
		t.Errorf("revision %d, want %d", revision, first)
	}
	wantEqual(t, journaltest.Message(t, restored), journaltest.Message(t, ledger))
	wantEqual(t, journaltest.Message(t, w.catchUp(t, restored)), journaltest.Message(t, w.recount(t)))
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, restored), first); err != nil || !saved {
		t.Errorf("second: %v, %v", saved, err)
	}
}

// TestLargeSnapshot has an open list that is offloaded; each object is deleted when the
// next snapshot is stored.
func TestLargeSnapshot(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for i := range 3 { // as far as the snapshots reach
		w.accept(t, fmt.Sprintf("d%d", i), 1)
	}
	_, js := journaltest.Dial(t, w.server.URL)
	whole := &pb.StatsSnapshot{Sequence: 1, Total: 20_000}
	for i := range 20_000 {
		whole.Open = append(whole.Open, &pb.StatsSnapshot_Open{
			DeliberationId: fmt.Sprintf("%064d", i), Pool: "default", Sequence: uint64(i + 1), TimeoutSeconds: 300,
		})
	}
	var revision uint64
	var snapshot deliberation.Snapshot
	for range 3 {
		var saved bool
		var err error
		snapshot = journaltest.Snapshot(t, deliberation.NewLedger(whole))
		if revision, saved, err = w.SaveSnapshot(t.Context(), snapshot, revision); err != nil || !saved {
			t.Fatalf("save: %v, %v", saved, err)
		}
		ledger, _ := w.ledger(t)
		if n := len(ledger.Open()); n != 20_000 {
			t.Errorf("%d open after reading back", n)
		}
		store := must[jetstream.ObjectStore](t)(js.ObjectStore(t.Context(), journal.Results))
		if objects := must[[]*jetstream.ObjectInfo](t)(store.List(t.Context())); len(objects) != 1 {
			t.Errorf("%d objects, want 1", len(objects))
		}
		whole.Sequence++
	}
	// Saved again as it is.
	if _, saved, err := w.SaveSnapshot(t.Context(), snapshot, revision); err != nil || !saved {
		t.Fatalf("save: %v, %v", saved, err)
	}
	w.ledger(t)
}

// TestLedgerOfABacklogInASmallPod: a snapshot is not the caller's choice, so its
// size does not count as theirs.
func TestLedgerOfABacklogInASmallPod(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	const open = 110_000
	backlog := deliberation.NewLedger(nil)
	for i := range uint64(open) {
		backlog.Apply(deliberation.Mark{Sequence: i + 1, Kind: deliberation.KindRequested, Qualifier: "default", DeliberationID: fmt.Sprintf("%064d", i)})
	}
	backlog.Resume(1)
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, backlog), 0); err != nil || !saved {
		t.Fatal(saved, err)
	}
	read := errors.New("the ledger was not read")
	door := &gate.Door{MaxBody: gate.MaxBody, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var ledger *deliberation.Ledger
		if ledger, _, read = w.Ledger(r.Context()); read == nil && ledger.Stats().GetActiveDeliberations() != open {
			read = fmt.Errorf("the statistics are %v", ledger.Stats())
		}
	})}
	gate.New(gate.For(0)).Before(door).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	if read != nil {
		t.Error(read)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	marks, ended := make(chan deliberation.Mark, 100), make(chan error, 1)
	w.accept(t, "d0", 1)
	go func() { ended <- w.Follow(ctx, 2, func(mark deliberation.Mark) { marks <- mark }) }()
	w.accept(t, "d1", 1)
	w.start(t, "d1", 1, time.Time{}, 0)
	must[bool](t)(w.End(t.Context(), "d1", completed("d1"), ""))
	for i, kind := range []deliberation.Kind{deliberation.KindRequested, deliberation.KindStarted, deliberation.KindDone} {
		mark := await.Receive(t, "a value", marks)
		if mark.Kind != kind || mark.DeliberationID != "d1" || mark.Sequence != uint64(i+2) || mark.Time.IsZero() {
			t.Errorf("mark %d is %+v", i, mark)
		}
		if kind == deliberation.KindRequested && mark.Timeout != 300*time.Second {
			t.Errorf("timeout is %s", mark.Timeout)
		}
	}
	cancel()
	if err := await.Receive(t, "a value", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// TestFollowResumes loses the consumer, then the server: either it continues by
// itself or says that it cannot, so that the caller starts again.
func TestFollowResumes(t *testing.T) {
	t.Parallel()
	w := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	marks, ended := make(chan deliberation.Mark, 100), make(chan struct{})
	go func() {
		defer close(ended)
		last := uint64(0)
		for ctx.Err() == nil {
			_ = w.Follow(ctx, last+1, func(mark deliberation.Mark) { last = mark.Sequence; marks <- mark })
		}
	}()
	w.accept(t, "d1", 1)
	await.Receive(t, "a value", marks)

	_, js := journaltest.Dial(t, w.server.URL)
	stream := must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream))
	for name := range stream.ConsumerNames(t.Context()).Name() {
		if name != "keeper-announce" && name != "pool-default" {
			if err := stream.DeleteConsumer(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.accept(t, "d2", 1)
	if mark := await.Receive(t, "a value", marks); mark.DeliberationID != "d2" {
		t.Errorf("after the consumer was lost: %+v", mark)
	}

	w.server.Stop()
	w.server.Restart()
	await.True(t, "the reconnect", func() bool {
		_, err := w.Accept(t.Context(), journaltest.Record("d3", 1, 300), "")
		return err == nil
	})
	if mark := await.Receive(t, "a value", marks); mark.DeliberationID != "d3" {
		t.Errorf("after the server was lost: %+v", mark)
	}
	cancel()
	await.Receive(t, "a value", ended)
}
