// Package journaltest is the conformance suite of functions.Journal. Every
// implementation runs it: the one in memory that the tests of functions use, and
// the journal on JetStream. So what a test shows with the one holds for the other.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Journal is an empty journal under test.
type Journal struct {
	functions.Journal

	// Start and Agent append what a worker appends: the start of the first attempt,
	// and the result of the agent at an index.
	Start func(ctx context.Context, id string) error
	Agent func(ctx context.Context, id string, index int, proposal string) error
	// Stop makes the journal unreachable until the test ends.
	Stop func()
}

// Run runs the suite. open returns a new journal for each test.
func Run(t *testing.T, open func(testing.TB) Journal) {
	for name, test := range map[string]func(*testing.T, Journal){
		"accept": testAccept, "accept competing": testAcceptCompeting, "accept without id": testAcceptWithoutID,
		"accept an incomplete one": testAcceptIncomplete,
		"end":                      testEnd, "end competing": testEndCompeting,
		"read":        testRead,
		"page filter": testPageFilters, "page bounds": testPageBounds, "page scan": testPageScan,
		"ledger":        testLedger,
		"watch":         testWatch,
		"watch resumed": testWatchResumed, "watch stopped": testWatchStopped,
		"oversized":   testOversized,
		"unavailable": testUnavailable,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func record(id string, agents int) *pb.DeliberationRequested {
	request := &pb.ExecuteDeliberationRequest{TaskId: "t-1", TaskDescription: "Decide.", Role: "DEV", DeliberationId: id}
	for i := range agents {
		request.Agents = append(request.Agents, &pb.Agent{Id: fmt.Sprint("a", i)})
	}
	return &pb.DeliberationRequested{
		DeliberationId: id, TaskId: request.GetTaskId(), Request: request, Pool: "default", TimeoutSeconds: 300,
	}
}

func result(index int, proposal string) *pb.DeliberationResult {
	return &pb.DeliberationResult{
		AgentId: fmt.Sprint("a", index), Proposal: proposal, Metadata: map[string]string{"status": "completed"},
	}
}

func (j Journal) accept(t *testing.T, record *pb.DeliberationRequested) {
	t.Helper()
	if existing, err := j.Accept(t.Context(), record, ""); err != nil || existing != nil {
		t.Fatalf("accept %s: %v, %v", record.GetDeliberationId(), existing, err)
	}
}

func (j Journal) end(t *testing.T, id string, end proto.Message) {
	t.Helper()
	if won, err := j.End(t.Context(), id, end, ""); err != nil || !won {
		t.Fatalf("end %s: %v, %v", id, won, err)
	}
}

func (j Journal) start(t *testing.T, id string) {
	t.Helper()
	if err := j.Start(t.Context(), id); err != nil {
		t.Fatalf("start %s: %v", id, err)
	}
}

// read reads from any replica and from the leader, which must agree.
func (j Journal) read(t *testing.T, id string) *deliberation.History {
	t.Helper()
	replica, err := j.Read(t.Context(), id)
	if err != nil {
		t.Fatalf("read %s: %v", id, err)
	}
	leader, err := j.ReadLeader(t.Context(), id)
	if err != nil {
		t.Fatalf("read %s from the leader: %v", id, err)
	}
	if !proto.Equal(replica.Status(id), leader.Status(id)) {
		t.Errorf("read %s: %v, from the leader %v", id, replica.Status(id), leader.Status(id))
	}
	return leader
}

func (j Journal) wantState(t *testing.T, id string, want deliberation.State) {
	t.Helper()
	if got := j.read(t, id).State; got != want {
		t.Errorf("%s is %s, want %s", id, got, want)
	}
}

func wantCode(t *testing.T, doing string, err error, want deliberation.Code) {
	t.Helper()
	if coded, ok := errors.AsType[*deliberation.Error](err); !ok || coded.Code != want {
		t.Errorf("%s: got %v, want %s", doing, err, want)
	}
}

// testAccept: a repeat returns the existing record and appends nothing, whether
// or not its content is the same. Telling the two apart is the caller's part.
func testAccept(t *testing.T, j Journal) {
	first := record("d", 1)
	j.accept(t, first)
	before := j.read(t, "d")
	other := record("d", 2)
	other.Pool = "gpu"
	for _, repeat := range []*pb.DeliberationRequested{record("d", 1), other} {
		if existing, err := j.Accept(t.Context(), repeat, ""); err != nil || !proto.Equal(existing, first) {
			t.Errorf("a repeat: got %v, %v, want the first record", existing, err)
		}
	}
	after := j.read(t, "d")
	if after.Sequence != before.Sequence || after.State != deliberation.Queued || !proto.Equal(after.Requested, first) {
		t.Errorf("a repeat changed %v into %v", before, after)
	}
	j.end(t, "d", &pb.DeliberationCancelled{DeliberationId: "d"})
	if existing, err := j.Accept(t.Context(), record("d", 1), ""); err != nil || !proto.Equal(existing, first) {
		t.Errorf("a repeat after the end: got %v, %v", existing, err)
	}
}

func testAcceptCompeting(t *testing.T, j Journal) {
	const callers = 8
	existing := make([]*pb.DeliberationRequested, callers)
	var wait sync.WaitGroup
	for i := range callers {
		wait.Go(func() {
			var err error
			if existing[i], err = j.Accept(t.Context(), record("d", i+1), ""); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	stored, won := j.read(t, "d").Requested, 0
	for i := range callers {
		switch {
		case existing[i] == nil:
			won++
			if !proto.Equal(stored, record("d", i+1)) {
				t.Errorf("caller %d was accepted, stored is %v", i, stored)
			}
		case !proto.Equal(existing[i], stored):
			t.Errorf("caller %d got %v, stored is %v", i, existing[i], stored)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d were accepted", won, callers)
	}
}

// testAcceptWithoutID: Submit gives every request an id. A fresh one is a new
// deliberation each time, one that the door derived is the same one.
func testAcceptWithoutID(t *testing.T, j Journal) {
	rules, err := deliberation.NewRules(deliberation.Settings{
		Pools: []string{"default"}, ModelHosts: []string{"vllm"}, ModelURL: "http://vllm", Model: "m",
	})
	if err != nil {
		t.Fatal(err)
	}
	f := functions.New(functions.Options{Journal: j, Rules: rules, Log: slog.New(slog.DiscardHandler)})
	ids := make(map[string]int)
	for _, derived := range []string{"", "", "key", "key"} {
		receipt, err := f.Submit(t.Context(), record("", 1).GetRequest(), functions.Origin{DeliberationID: derived})
		if err != nil {
			t.Fatal(err)
		}
		ids[receipt.GetDeliberationId()]++
		j.wantState(t, receipt.GetDeliberationId(), deliberation.Queued)
	}
	if len(ids) != 3 || ids["key"] != 2 {
		t.Errorf("the receipts name %v", ids)
	}
}

// testAcceptIncomplete: an id of which only later events exist cannot be used.
func testAcceptIncomplete(t *testing.T, j Journal) {
	j.end(t, "d", &pb.DeliberationCompleted{DeliberationId: "d"})
	_, err := j.Accept(t.Context(), record("d", 1), "")
	wantCode(t, "accept", err, deliberation.Conflict)
}

var ends = map[deliberation.State]func(id string) proto.Message{
	deliberation.Completed: func(id string) proto.Message {
		return &pb.DeliberationCompleted{DeliberationId: id, Results: []*pb.DeliberationResult{result(0, "yes")}}
	},
	deliberation.Failed: func(id string) proto.Message {
		return &pb.DeliberationFailed{DeliberationId: id, ErrorMessage: "no agent answered"}
	},
	deliberation.Cancelled: func(id string) proto.Message {
		return &pb.DeliberationCancelled{DeliberationId: id, Reason: "enough"}
	},
}

// testEnd: the first end is final, for every pair of kinds.
func testEnd(t *testing.T, j Journal) {
	for state, end := range ends {
		for _, later := range ends {
			id := deliberation.NewID()
			j.accept(t, record(id, 1))
			j.end(t, id, end(id))
			before := j.read(t, id)
			if won, err := j.End(t.Context(), id, later(id), ""); err != nil || won {
				t.Errorf("a second end: %v, %v", won, err)
			}
			if after := j.read(t, id); after.State != state || !proto.Equal(before.Status(id), after.Status(id)) {
				t.Errorf("a second end made of %v %v", before.Status(id), after.Status(id))
			}
		}
	}
}

func testEndCompeting(t *testing.T, j Journal) {
	j.accept(t, record("d", 1))
	var wait sync.WaitGroup
	winners := make(chan deliberation.State, 12)
	for range 4 {
		for state, end := range ends {
			wait.Go(func() {
				won, err := j.End(t.Context(), "d", end("d"), "")
				if err != nil {
					t.Error(err)
				}
				if won {
					winners <- state
				}
			})
		}
	}
	wait.Wait()
	if len(winners) != 1 {
		t.Fatalf("%d ends won", len(winners))
	}
	j.wantState(t, "d", <-winners)
}

func testRead(t *testing.T, j Journal) {
	j.wantState(t, "d", deliberation.Unknown)
	j.accept(t, record("d", 2))
	j.wantState(t, "d", deliberation.Queued)
	j.start(t, "d")
	j.wantState(t, "d", deliberation.Running)
	if err := j.Agent(t.Context(), "d", 1, "yes"); err != nil {
		t.Fatal(err)
	}
	history := j.read(t, "d")
	if history.State != deliberation.Running || history.Attempts != 1 || history.Recorded(0) != nil || history.Recorded(1).GetProposal() != "yes" {
		t.Errorf("while it runs: %v", history)
	}
	j.end(t, "d", &pb.DeliberationCompleted{DeliberationId: "d", Results: []*pb.DeliberationResult{result(0, "no"), result(1, "yes")}})
	if history = j.read(t, "d"); history.State != deliberation.Completed || len(history.Results()) != 2 {
		t.Errorf("at its end: %v", history)
	}
	j.wantState(t, "e", deliberation.Unknown)
}

// walk reads all pages of a query and returns the ids in their order.
func (j Journal) walk(t *testing.T, query deliberation.Query) (ids []string, pages int) {
	t.Helper()
	for {
		page, next, err := j.Page(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > query.Size {
			t.Fatalf("a page of %d has %d", query.Size, len(page))
		}
		for _, summary := range page {
			ids = append(ids, summary.GetDeliberationId())
		}
		if pages++; next == 0 {
			return ids, pages
		}
		if query.Before > 0 && next >= query.Before {
			t.Fatalf("the token went from %d to %d", query.Before, next)
		}
		query.Before = next
	}
}

func testPageFilters(t *testing.T, j Journal) {
	if ids, _ := j.walk(t, deliberation.Query{Size: 10}); len(ids) > 0 {
		t.Errorf("an empty journal lists %v", ids)
	}
	for _, one := range []struct{ id, pool, task, tenant string }{
		{"a", "default", "t-1", ""}, {"b", "gpu", "t-1", "x"}, {"c", "default", "t-2", "y"}, {"d", "gpu", "t-2", "x"}, {"e", "default", "t-1", ""},
	} {
		record := record(one.id, 1)
		record.Tenant = one.tenant
		record.Pool, record.TaskId, record.Request.TaskId = one.pool, one.task, one.task
		record.Request.Labels = map[string]string{"team": one.pool, "run": one.task}
		j.accept(t, record)
	}
	j.start(t, "b")
	j.end(t, "c", ends[deliberation.Completed]("c"))
	j.end(t, "d", ends[deliberation.Failed]("d"))
	j.end(t, "e", ends[deliberation.Cancelled]("e"))
	for _, test := range []struct {
		query deliberation.Query
		want  string
	}{
		{deliberation.Query{}, "edcba"},
		{deliberation.Query{Pool: "default"}, "eca"},
		{deliberation.Query{Pool: "gpu"}, "db"},
		{deliberation.Query{Pool: "none"}, ""},
		{deliberation.Query{TaskID: "t-2"}, "dc"},
		{deliberation.Query{State: deliberation.Queued}, "a"},
		{deliberation.Query{State: deliberation.Running}, "b"},
		{deliberation.Query{State: deliberation.Completed}, "c"},
		{deliberation.Query{State: deliberation.Failed}, "d"},
		{deliberation.Query{State: deliberation.Cancelled}, "e"},
		{deliberation.Query{State: deliberation.Failed, Pool: "default"}, ""},
		{deliberation.Query{State: deliberation.Failed, Pool: "gpu", TaskID: "t-2"}, "d"},
		{deliberation.Query{Pool: "default", TaskID: "t-1"}, "ea"},
		{deliberation.Query{Tenant: "x"}, "db"},
		{deliberation.Query{Tenant: "y", Pool: "gpu"}, ""},
		{deliberation.Query{Tenant: "z"}, ""},
		{deliberation.Query{Labels: map[string]string{"team": "gpu"}}, "db"},
		{deliberation.Query{Labels: map[string]string{"team": "gpu", "run": "t-1"}}, "b"},
		{deliberation.Query{Labels: map[string]string{"team": "gpu"}, State: deliberation.Failed}, "d"},
		{deliberation.Query{Labels: map[string]string{"team": ""}}, ""},
		{deliberation.Query{Labels: map[string]string{"none": ""}}, ""},
	} {
		for _, test.query.Size = range []int{1, 2, 10} {
			if ids, _ := j.walk(t, test.query); strings.Join(ids, "") != test.want {
				t.Errorf("%+v: got %v, want %s", test.query, ids, test.want)
			}
		}
	}
}

// testPageBounds: Before is a sequence of the journal, and the page that holds
// the oldest request has no next one.
func testPageBounds(t *testing.T, j Journal) {
	for _, id := range []string{"a", "b", "c"} {
		j.accept(t, record(id, 1))
	}
	middle := j.read(t, "b").Sequence
	for _, test := range []struct {
		query deliberation.Query
		want  string
		more  bool
	}{
		{deliberation.Query{Size: 3}, "cba", false},
		{deliberation.Query{Size: 2}, "cb", true},
		{deliberation.Query{Size: 10, Before: middle}, "a", false},
		{deliberation.Query{Size: 10, Before: middle + 1}, "ba", false},
		{deliberation.Query{Size: 1, Before: middle + 1}, "b", true},
		{deliberation.Query{Size: 10, Before: 1}, "", false},
		{deliberation.Query{Size: 10, Before: 1 << 60}, "cba", false},
	} {
		page, next, err := j.Page(t.Context(), test.query)
		got := ""
		for _, summary := range page {
			got += summary.GetDeliberationId()
		}
		if err != nil || got != test.want || next > 0 != test.more {
			t.Errorf("%+v: got %q, next %d, %v", test.query, got, next, err)
		}
	}
}

// testPageScan: a page may end before it is full, as what it reads is bounded.
// The following pages find the rest.
func testPageScan(t *testing.T, j Journal) {
	wanted := record("wanted", 1)
	wanted.Pool = "gpu"
	j.accept(t, wanted)
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			for range 100 {
				if _, err := j.Accept(t.Context(), record(deliberation.NewID(), 1), ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if ids, pages := j.walk(t, deliberation.Query{Size: 10, Pool: "gpu"}); len(ids) != 1 || ids[0] != "wanted" || pages > 10 {
		t.Errorf("got %v on %d pages", ids, pages)
	}
	if ids, _ := j.walk(t, deliberation.Query{Size: 100}); len(ids) != 601 {
		t.Errorf("all are %d", len(ids))
	}
}

// withUsage sets the usage of an end.
func withUsage(end proto.Message) proto.Message {
	field := end.ProtoReflect().Descriptor().Fields().ByName("usage")
	usage := &pb.Usage{PromptTokens: 7, CompletionTokens: 5, CachedTokens: 2, ReasoningTokens: 1, Requests: 1}
	end.ProtoReflect().Set(field, protoreflect.ValueOfMessage(usage.ProtoReflect()))
	return end
}

func testLedger(t *testing.T, j Journal) {
	ledger, _, err := j.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &pb.RayExecutorStats{}
	check := func(doing string) {
		t.Helper()
		for range 2 { // what was counted once is not counted again
			if err := j.CatchUp(t.Context(), ledger); err != nil {
				t.Fatal(err)
			}
			got := ledger.Stats()
			got.AverageExecutionTimeMs = 0
			if !proto.Equal(got, want) {
				t.Errorf("%s: got %v, want %v", doing, got, want)
			}
		}
	}
	check("empty")
	owned := record("owned", 1)
	owned.Tenant = "x"
	j.accept(t, owned)
	want.TotalDeliberations, want.ActiveDeliberations, want.QueuedDeliberations = 1, 1, 1
	check("accepted for a tenant")
	if open := ledger.Open(); len(open) != 1 || open[0].Tenant != "x" {
		t.Errorf("the open ones are %+v", open)
	}
	j.end(t, "owned", withUsage(ends[deliberation.Cancelled]("owned")))
	want.PromptTokens, want.CompletionTokens, want.CachedTokens, want.ModelRequests = 7, 5, 2, 1
	want.ActiveDeliberations, want.QueuedDeliberations, want.CancelledDeliberations = 0, 0, 1
	check("ended for a tenant")
	for _, id := range []string{"queued", "running", "completed", "failed", "cancelled"} {
		j.accept(t, record(id, 1))
	}
	want.TotalDeliberations, want.ActiveDeliberations, want.QueuedDeliberations = 6, 5, 5
	check("accepted")
	for _, id := range []string{"running", "completed"} {
		j.start(t, id)
	}
	want.QueuedDeliberations = 3
	check("started")
	for state, end := range ends {
		j.end(t, string(state), withUsage(end(string(state))))
	}
	want.PromptTokens, want.CompletionTokens, want.CachedTokens, want.ModelRequests = 4*7, 4*5, 4*2, 4
	want.ActiveDeliberations, want.QueuedDeliberations = 2, 1
	want.CompletedDeliberations, want.FailedDeliberations, want.CancelledDeliberations = 1, 1, 2
	check("ended")
	j.accept(t, record("older", 1))
	j.end(t, "older", ends[deliberation.Failed]("older"))
	want.TotalDeliberations, want.FailedDeliberations = 7, 2
	check("an end without usage")

	other := deliberation.NewLedger(&pb.StatsSnapshot{Sequence: 1000})
	if err := j.CatchUp(t.Context(), other); !errors.Is(err, deliberation.ErrOtherLedger) {
		t.Errorf("a ledger of another journal: %v", err)
	}
	wantCode(t, "a ledger of another journal", j.CatchUp(t.Context(), other), deliberation.Unavailable)
}

// watching is a watch that runs in the background.
type watching struct {
	entries chan deliberation.Entry
	err     chan error
	cancel  context.CancelFunc
}

func (j Journal) watch(t *testing.T, id string, after uint64) watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := watching{entries: make(chan deliberation.Entry, 100), err: make(chan error, 1), cancel: cancel}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.err <- j.Watch(ctx, id, after, func(entry deliberation.Entry) error {
			w.entries <- entry
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return w
}

// next waits for a value.
func next[T any](t *testing.T, values <-chan T) T {
	t.Helper()
	select {
	case value := <-values:
		return value
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came within 30 s")
		panic("unreachable")
	}
}

// expect waits for the entry of a kind; nil is the one without an event.
func (w watching) expect(t *testing.T, want proto.Message) deliberation.Entry {
	t.Helper()
	entry := next(t, w.entries)
	switch {
	case want == nil || entry.Event == nil:
		if want != nil || entry.Event != nil {
			t.Fatalf("got %v, want %T", entry.Event, want)
		}
	case entry.Event.ProtoReflect().Descriptor() != want.ProtoReflect().Descriptor():
		t.Fatalf("got %T, want %T", entry.Event, want)
	}
	return entry
}

// testWatch: entries come in their order while they are appended, until the end.
func testWatch(t *testing.T, j Journal) {
	err := j.Watch(t.Context(), "d", 0, func(deliberation.Entry) error { t.Error("called for an unknown id"); return nil })
	wantCode(t, "watch an unknown id", err, deliberation.NotFound)
	j.accept(t, record("d", 1))
	w := j.watch(t, "d", 0)
	w.expect(t, nil)
	last := w.expect(t, &pb.DeliberationRequested{}).Sequence
	for _, step := range []struct {
		do   func()
		want proto.Message
	}{
		{func() { j.start(t, "d") }, &pb.DeliberationStarted{}},
		{func() {
			if err := j.Agent(t.Context(), "d", 0, "yes"); err != nil {
				t.Fatal(err)
			}
		}, &pb.AgentCompleted{}},
		{func() { j.end(t, "d", ends[deliberation.Completed]("d")) }, &pb.DeliberationCompleted{}},
	} {
		step.do()
		entry := w.expect(t, step.want)
		if entry.Sequence <= last || entry.Time.IsZero() {
			t.Errorf("%T has sequence %d after %d, and time %s", entry.Event, entry.Sequence, last, entry.Time)
		}
		last = entry.Sequence
	}
	if err := next(t, w.err); err != nil || len(w.entries) > 0 {
		t.Errorf("after the end: %v, %d entries", err, len(w.entries))
	}
}

// testWatchResumed: a watch starts after any sequence, even one that the history
// does not have yet. After the end there is nothing, not even the first call.
func testWatchResumed(t *testing.T, j Journal) {
	j.accept(t, record("d", 1))
	first := j.read(t, "d").Sequence
	j.start(t, "d")
	resumed, ahead := j.watch(t, "d", first), j.watch(t, "d", 1<<40)
	resumed.expect(t, nil)
	resumed.expect(t, &pb.DeliberationStarted{})
	ahead.expect(t, nil)
	j.end(t, "d", ends[deliberation.Failed]("d"))
	for _, w := range []watching{resumed, ahead} {
		w.expect(t, &pb.DeliberationFailed{})
		if err := next(t, w.err); err != nil {
			t.Error(err)
		}
	}
	late := j.watch(t, "d", first)
	late.expect(t, nil)
	late.expect(t, &pb.DeliberationStarted{})
	last := late.expect(t, &pb.DeliberationFailed{}).Sequence
	over := j.watch(t, "d", last)
	if err := next(t, over.err); err != nil || len(over.entries) > 0 {
		t.Errorf("after its end: %v, %d calls", err, len(over.entries))
	}
}

// testWatchStopped: a watch ends with its context and with the first error of its
// callback.
func testWatchStopped(t *testing.T, j Journal) {
	j.accept(t, record("d", 1))
	w := j.watch(t, "d", 0)
	w.expect(t, nil)
	w.cancel()
	if err := next(t, w.err); err == nil {
		t.Error("no error though the context has ended")
	}
	broken, calls := errors.New("broken pipe"), 0
	err := j.Watch(t.Context(), "d", 0, func(deliberation.Entry) error { calls++; return broken })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

// testOversized: what no message can hold comes back whole.
func testOversized(t *testing.T, j Journal) {
	large := record("d", 2)
	large.Request.TaskDescription = strings.Repeat("x", 1<<20)
	j.accept(t, large)
	if existing, err := j.Accept(t.Context(), record("d", 1), ""); err != nil || !proto.Equal(existing, large) {
		t.Errorf("a repeat got a record of %d bytes, %v", proto.Size(existing), err)
	}
	if got := j.read(t, "d").Requested; !proto.Equal(got, large) {
		t.Errorf("read a request of %d bytes", proto.Size(got))
	}
	end := &pb.DeliberationCompleted{DeliberationId: "d", Results: []*pb.DeliberationResult{
		result(0, strings.Repeat("y", 1<<20)), result(1, strings.Repeat("z", 1<<20)),
	}}
	j.end(t, "d", end)
	results := j.read(t, "d").Results()
	if len(results) != 2 || len(results[0].GetProposal()) != 1<<20 || len(results[1].GetProposal()) != 1<<20 {
		t.Errorf("read %d results", len(results))
	}
	w := j.watch(t, "d", 0)
	w.expect(t, nil)
	if got := w.expect(t, large).Event; !proto.Equal(got, large) {
		t.Errorf("watched a request of %d bytes", proto.Size(got))
	}
	if got := w.expect(t, end).Event; !proto.Equal(got, end) {
		t.Errorf("watched an end of %d bytes", proto.Size(got))
	}
	page, _, err := j.Page(t.Context(), deliberation.Query{Size: 10})
	if err != nil || len(page) != 1 || proto.Size(page[0]) > 1<<10 {
		t.Errorf("listed as %d summaries, %v", len(page), err)
	}
}

// testUnavailable: each call says Unavailable while the journal cannot be
// reached. The outcome of a write is unknown then, and repeating it is safe.
func testUnavailable(t *testing.T, j Journal) {
	j.accept(t, record("d", 1))
	ledger, _, err := j.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := j.watch(t, "d", 0)
	w.expect(t, nil)
	j.Stop()
	for name, call := range map[string]func() error{
		"a watch": func() error { return next(t, w.err) },
		"accept":  func() error { _, err := j.Accept(t.Context(), record("e", 1), ""); return err },
		"end":     func() error { _, err := j.End(t.Context(), "d", ends[deliberation.Failed]("d"), ""); return err },
		"read":    func() error { _, err := j.Read(t.Context(), "d"); return err },
		"leader":  func() error { _, err := j.ReadLeader(t.Context(), "d"); return err },
		"page":    func() error { _, _, err := j.Page(t.Context(), deliberation.Query{Size: 1}); return err },
		"ledger":  func() error { _, _, err := j.Ledger(t.Context()); return err },
		"catchup": func() error { return j.CatchUp(t.Context(), ledger) },
		"watch":   func() error { return j.Watch(t.Context(), "d", 0, func(deliberation.Entry) error { return nil }) },
	} {
		wantCode(t, name, call(), deliberation.Unavailable)
	}
}
