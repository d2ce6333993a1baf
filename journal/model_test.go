package journal_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// believed is what the model holds of one deliberation.
type believed struct {
	state    deliberation.State
	results  map[int]string // by agent; "" is a failure
	ending   []string       // nil where the end brings none
	attempts int32
	late     int32 // starts behind the end
	started  time.Time
	last     uint64 // sequence of the last start
}

// machine drives a journal and the model side by side.
type machine struct {
	world
	ctx       context.Context
	ids       []string
	model     map[string]*believed
	snapshots []deliberation.Snapshot
	followed  *deliberation.Ledger // caught up now and then, never loaded again
	revision  uint64
}

const agentsOfModel = 3

func (m *machine) pick(t *rapid.T) (string, *believed) {
	if len(m.ids) == 0 {
		t.Skip("nothing there")
	}
	id := rapid.SampledFrom(m.ids).Draw(t, "id")
	return id, m.model[id]
}

func (m *machine) must(t *rapid.T, err error) {
	if err != nil {
		t.Fatalf("%v: %v", err, deliberation.AsError(err).Cause)
	}
}

func (m *machine) submit(t *rapid.T) {
	id := fmt.Sprintf("d%d", len(m.ids))
	if again := len(m.ids) > 0 && rapid.Bool().Draw(t, "again"); again {
		id = rapid.SampledFrom(m.ids).Draw(t, "id")
	}
	existing, err := m.Accept(m.ctx, journaltest.Record(id, agentsOfModel, 300), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, known := m.model[id]; known != (existing != nil) {
		t.Fatalf("%s: known %v, but existing is %v", id, known, existing)
	}
	if existing == nil {
		m.ids = append(m.ids, id)
		m.model[id] = &believed{state: deliberation.Queued, results: map[int]string{}}
	}
}

func (m *machine) start(t *rapid.T) {
	id, one := m.pick(t)
	before := one.last
	stale := one.last > 0 && rapid.Bool().Draw(t, "stale")
	if stale {
		before--
	}
	sequence, stored, err := m.worker.Started(m.ctx, id, one.attempts+one.late+1, one.started, before)
	if err != nil || stored == stale {
		t.Fatalf("start of %s: stored %v, %v", id, stored, err)
	}
	if !stored {
		return
	}
	one.last = sequence
	if one.state.Ended() {
		one.late++
		return
	}
	one.attempts++
	one.state = deliberation.Running
	if one.started.IsZero() {
		history, err := m.Read(m.ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		one.started = history.Started
	}
}

// agent writes a result, after the end too.
func (m *machine) agent(t *rapid.T) {
	id, one := m.pick(t)
	index := rapid.IntRange(0, agentsOfModel-1).Draw(t, "agent")
	proposal := rapid.SampledFrom([]string{"", "yes", "no"}).Draw(t, "proposal")
	stored, err := m.worker.Agent(m.ctx, id, index, proposal)
	if err != nil {
		t.Fatal(err)
	}
	_, known := one.results[index]
	if !one.state.Ended() && stored == known {
		t.Fatalf("agent %d of %s: known %v, stored %v", index, id, known, stored)
	}
	if stored && !one.state.Ended() {
		one.results[index] = proposal
	}
}

func (m *machine) end(t *rapid.T) {
	id, one := m.pick(t)
	results := make([]*pb.DeliberationResult, agentsOfModel)
	ending := make([]string, agentsOfModel)
	for i := range results {
		ending[i] = one.results[i]
		results[i] = journaltest.Result(i, ending[i])
	}
	var event proto.Message
	state := rapid.SampledFrom([]deliberation.State{deliberation.Completed, deliberation.Failed, deliberation.Cancelled}).Draw(t, "end")
	switch state {
	case deliberation.Completed:
		event = completed(id, results...)
	case deliberation.Failed:
		event = failed(id)
		ending = nil
	default:
		event = cancelled(id)
		ending = nil
	}
	won, err := m.End(m.ctx, id, event, "")
	if err != nil || won == one.state.Ended() {
		t.Fatalf("end of %s, which is %s: won %v, %v", id, one.state, won, err)
	}
	if won {
		one.state, one.ending = state, ending
	}
}

func (m *machine) saveSnapshot(t *rapid.T) {
	m.must(t, m.CatchUp(m.ctx, m.followed))
	snapshot := journaltest.Snapshot(t, m.followed)
	revision, saved, err := m.SaveSnapshot(m.ctx, snapshot, m.revision)
	if err != nil || !saved {
		_, existing, failure := m.Ledger(m.ctx)
		t.Fatalf("saved %v over revision %d, %v; the stored one is %d, %v", saved, m.revision, err, existing, failure)
	}
	m.revision, m.snapshots = revision, append(m.snapshots, snapshot)
}

func (m *machine) restart(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
		t.Skip("seldom")
	}
	m.server.Stop()
	m.server.Restart()
	// The idle time makes Wake ping the server: the client may not have noticed yet.
	if err := m.Wake(m.ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ReadLeader(m.ctx, "nobody"); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	if err := m.worker.Wake(m.ctx); err != nil {
		t.Fatal(err)
	}
}

// check compares one deliberation with the model after every step.
func (m *machine) check(t *rapid.T) {
	if len(m.ids) > 0 {
		id, _ := m.pick(t)
		m.checkStory(t, id)
	}
}

// checkAll compares all that can be read. It reads twice: reading changes
// nothing.
func (m *machine) checkAll(t *rapid.T) {
	for range 2 {
		for _, id := range m.ids {
			m.checkStory(t, id)
		}
		m.checkLedgers(t)
	}
}

func (m *machine) checkStory(t *rapid.T, id string) {
	history, err := m.Read(m.ctx, id)
	m.must(t, err)
	leader, err := m.ReadLeader(m.ctx, id)
	m.must(t, err)
	if !proto.Equal(history.Status(id), leader.Status(id)) {
		t.Fatalf("a replica answers %s\nthe leader %s", history.Status(id), leader.Status(id))
	}
	one := m.model[id]
	var got, want []string
	for _, result := range history.Results() {
		got = append(got, result.GetProposal())
	}
	want = one.ending
	if want == nil {
		for i := range agentsOfModel {
			if result, known := one.results[i]; known {
				want = append(want, result)
			}
		}
	}
	if history.State != one.state || history.Attempts != one.attempts || !history.Started.Equal(one.started) || !slices.Equal(got, want) {
		t.Fatalf("%s is %s after %d attempts with %q, want %s after %d with %q",
			id, history.State, history.Attempts, got, one.state, one.attempts, want)
	}
}

func (m *machine) checkLedgers(t *rapid.T) {
	want := &pb.RayExecutorStats{TotalDeliberations: int64(len(m.ids))}
	for _, one := range m.model {
		switch one.state {
		case deliberation.Queued:
			want.QueuedDeliberations++
			want.ActiveDeliberations++
		case deliberation.Running:
			want.ActiveDeliberations++
		case deliberation.Completed:
			want.CompletedDeliberations++
		case deliberation.Failed:
			want.FailedDeliberations++
		case deliberation.Cancelled:
			want.CancelledDeliberations++
		}
	}
	fromZero := deliberation.NewLedger(nil)
	m.must(t, m.CatchUp(m.ctx, fromZero))
	stats := fromZero.Stats()
	stats.AverageExecutionTimeMs = 0
	if !proto.Equal(stats, want) {
		t.Fatalf("the statistics are %s, want %s", stats, want)
	}
	ledgers := []*deliberation.Ledger{m.followed}
	for _, snapshot := range m.snapshots {
		ledger, err := deliberation.DecodeLedger(snapshot.Data)
		m.must(t, err)
		ledgers = append(ledgers, ledger)
	}
	for _, ledger := range ledgers {
		from := ledger.Sequence()
		m.must(t, m.CatchUp(m.ctx, ledger))
		if got, want := journaltest.Message(t, ledger), journaltest.Message(t, fromZero); !proto.Equal(got, want) {
			t.Fatalf("from %d: %s\nfrom zero: %s", from, got, want)
		}
	}
}

// TestModel lives through generated histories and compares with a model in
// memory. Each has a server of its own: where a stream is deleted and created again
// time and again, nats-server 2.15 may find the old messages in the new one, for
// it removes them in the background.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		w := setup(t)
		rt.Cleanup(func() {
			w.Close()
			w.server.Stop()
		})
		m := &machine{world: w, ctx: t.Context(), model: map[string]*believed{}, followed: deliberation.NewLedger(nil)}
		rt.Repeat(map[string]func(*rapid.T){
			"submit": m.submit, "start": m.start, "agent": m.agent, "end": m.end,
			"snapshot": m.saveSnapshot, "restart": m.restart, "": m.check,
		})
		m.checkAll(rt)
		for id, one := range m.model {
			want := 0
			if one.state.Ended() {
				want = 1
			}
			if n := w.messages(t, events.EndSubject(id)); n != want {
				rt.Fatalf("%s has %d ends, want %d", id, n, want)
			}
		}
	})
}
