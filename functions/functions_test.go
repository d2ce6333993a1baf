package functions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// memory is a journal in memory. fail and panics, where set, are what every
// call comes to.
type memory struct {
	mu      sync.Mutex
	entries []entry
	traces  []string
	fail    error
	panics  any
}

type entry struct {
	deliberation.Mark
	event proto.Message
}

func (m *memory) check() error {
	if m.panics != nil {
		panic(m.panics)
	}
	return m.fail
}

func (m *memory) set(fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

// write appends an event as a worker or the functions do.
func (m *memory) write(id string, kind deliberation.Kind, qualifier string, event proto.Message) {
	sequence := uint64(len(m.entries) + 1)
	mark := deliberation.Mark{
		Sequence: sequence, Time: time.Unix(int64(sequence), 0), Kind: kind, Qualifier: qualifier,
		DeliberationID: id, Timeout: time.Minute,
	}
	m.entries = append(m.entries, entry{mark, event})
}

func (m *memory) start(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(id, deliberation.KindStarted, "default", &pb.DeliberationStarted{DeliberationId: id, Attempt: 1, Cluster: "east"})
}

func (m *memory) Accept(_ context.Context, record *pb.DeliberationRequested, traceParent string) (*pb.DeliberationRequested, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return nil, err
	}
	if story := m.fold(record.GetDeliberationId()); story.Requested != nil {
		return story.Requested, nil
	}
	m.write(record.GetDeliberationId(), deliberation.KindRequested, record.GetPool(), record)
	m.traces = append(m.traces, traceParent)
	return nil, nil
}

func (m *memory) End(_ context.Context, id string, end proto.Message, traceParent string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return false, err
	}
	if m.fold(id).State.Ended() {
		return false, nil
	}
	qualifier := deliberation.Fold([]deliberation.Entry{{Event: end}}).State
	m.write(id, deliberation.KindDone, string(qualifier), end)
	m.traces = append(m.traces, traceParent)
	return true, nil
}

func (m *memory) fold(id string) *deliberation.History {
	var own []deliberation.Entry
	for _, e := range m.entries {
		if e.DeliberationID == id {
			own = append(own, deliberation.Entry{Sequence: e.Sequence, Time: e.Time, Event: e.event})
		}
	}
	return deliberation.Fold(own)
}

func (m *memory) Read(_ context.Context, id string) (*deliberation.History, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return nil, err
	}
	return m.fold(id), nil
}

func (m *memory) ReadLeader(ctx context.Context, id string) (*deliberation.History, error) {
	return m.Read(ctx, id)
}

// Watch tells what there is; what comes later, tests of the real journal tell.
func (m *memory) Watch(ctx context.Context, id string, after uint64, tell func(deliberation.Entry) error) error {
	story, err := m.Read(ctx, id)
	switch {
	case err != nil:
		return err
	case story.State == deliberation.Unknown:
		return deliberation.NoSuch(id)
	case story.State.Ended() && story.Sequence <= after:
		return nil
	}
	m.mu.Lock()
	entries := slices.Clone(m.entries)
	m.mu.Unlock()
	if err := tell(deliberation.Entry{}); err != nil {
		return err
	}
	for _, e := range entries {
		if e.DeliberationID == id && e.Sequence > after {
			if err := tell(deliberation.Entry{Sequence: e.Sequence, Time: e.Time, Event: e.event}); err != nil {
				return err
			}
		}
	}
	if !story.State.Ended() {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (m *memory) Page(_ context.Context, query deliberation.Query) (page []*pb.DeliberationSummary, next uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return nil, 0, err
	}
	for i := len(m.entries) - 1; i >= 0; i-- {
		e := m.entries[i]
		if e.Kind != deliberation.KindRequested || query.Before > 0 && e.Sequence >= query.Before {
			continue
		}
		if page = append(page, m.fold(e.DeliberationID).Summary()); len(page) == query.Size {
			return page, e.Sequence, nil
		}
	}
	return page, 0, nil
}

func (m *memory) Ledger(context.Context) (*deliberation.Ledger, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return deliberation.NewLedger(nil), 0, m.check()
}

func (m *memory) CatchUp(_ context.Context, ledger *deliberation.Ledger) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		ledger.Apply(e.Mark)
	}
	return m.check()
}

func (m *memory) Ready(context.Context) error { return m.check() }

// fleet answers with clusters.
type fleet func(context.Context) []*pb.Cluster

func (f fleet) Clusters(ctx context.Context) []*pb.Cluster { return f(ctx) }

// logs is what was logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// fixture is a set of functions over a journal in memory.
type fixture struct {
	*functions.Functions
	journal *memory
	logs    *logs
}

func setup(tb testing.TB, change ...func(*functions.Options)) *fixture {
	tb.Helper()
	f := &fixture{journal: &memory{}, logs: &logs{}}
	rules, err := deliberation.NewRules(deliberation.Settings{
		Pools: []string{"default", "gpu"}, ModelHosts: []string{"vllm"}, ModelURL: "http://vllm", Model: "m",
	})
	if err != nil {
		tb.Fatal(err)
	}
	options := functions.Options{
		Journal: f.journal, Rules: rules, Serve: []string{"submit", "status", "stats", "cancel", "list"},
		Log:      slog.New(slog.NewJSONHandler(f.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Clusters: fleet(func(context.Context) []*pb.Cluster { return nil }),
	}
	for _, alter := range change {
		alter(&options)
	}
	f.Functions = functions.New(options)
	return f
}

func request(id string) *pb.ExecuteDeliberationRequest {
	return &pb.ExecuteDeliberationRequest{
		TaskId: "t-1", TaskDescription: "Decide.", Role: "DEV", Agents: []*pb.Agent{{Id: "a"}}, DeliberationId: id,
	}
}

func (f *fixture) submit(tb testing.TB, id string) {
	tb.Helper()
	if _, err := f.Submit(tb.Context(), request(id), functions.Origin{}); err != nil {
		tb.Fatal(err)
	}
}

// refused holds an error against a code and a field.
func refused(t *testing.T, err error, code deliberation.Code, field string) {
	t.Helper()
	coded, ok := errors.AsType[*deliberation.Error](err)
	if !ok || coded.Code != code || coded.Field != field {
		t.Errorf("got %v, want %s at %q", err, code, field)
	}
}

var away = &deliberation.Error{
	Code: deliberation.Unavailable, Field: "NATS_URL", Message: "NATS cannot be reached", RetryAfter: 2 * time.Second,
}

func TestSubmit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	receipt, err := f.Submit(t.Context(), request("d"), functions.Origin{DeliberationID: "derived", TraceParent: trace})
	if err != nil || receipt.GetDeliberationId() != "d" || receipt.GetStatus() != "submitted" {
		t.Fatalf("got %v, %v", receipt, err)
	}
	if f.journal.traces[0] != trace {
		t.Error("the trace is lost")
	}
	again, err := f.Submit(t.Context(), request("d"), functions.Origin{})
	if err != nil || again.GetDeliberationId() != "d" || again.GetStatus() != "submitted" || len(f.journal.entries) != 1 {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	other := request("d")
	other.Constraints = &pb.TaskConstraints{TimeoutSeconds: 300} // what the default is, but not as it was sent
	_, err = f.Submit(t.Context(), other, functions.Origin{})
	refused(t, err, deliberation.Conflict, "deliberation_id")
	if deliberation.AsError(err).DeliberationID != "d" {
		t.Error("a conflict names the deliberation")
	}

	derived, err := f.Submit(t.Context(), request(""), functions.Origin{DeliberationID: "derived"})
	if err != nil || derived.GetDeliberationId() != "derived" {
		t.Errorf("got %v, %v", derived, err)
	}
	one, err := f.Submit(t.Context(), request(""), functions.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.Submit(t.Context(), request(""), functions.Origin{})
	if err != nil || one.GetDeliberationId() >= two.GetDeliberationId() {
		t.Errorf("fresh ids: %v, then %v, %v", one, two, err)
	}

	_, err = f.Submit(t.Context(), &pb.ExecuteDeliberationRequest{}, functions.Origin{})
	refused(t, err, deliberation.Invalid, "task_id")
	f.journal.set(away)
	_, err = f.Submit(t.Context(), request(""), functions.Origin{DeliberationID: "derived"})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
	if deliberation.AsError(err).DeliberationID != "derived" || away.DeliberationID != "" {
		t.Error("the outcome is unknown: the caller must learn the id, and the journal's error stay as it is")
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "d")
	for id, want := range map[string]string{"d": "queued", "x": "not_found"} {
		got, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: id}, functions.Origin{})
		if err != nil || got.GetStatus() != want || got.GetDeliberationId() != id {
			t.Errorf("%s: %v, %v", id, got, err)
		}
	}
	_, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "*"}, functions.Origin{})
	refused(t, err, deliberation.Invalid, "deliberation_id")
	f.journal.set(away)
	_, err = f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "d"}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}

func TestCancel(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cancel := func(id, reason string) string {
		got, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: id, Reason: reason}, functions.Origin{TraceParent: trace})
		if err != nil || got.GetDeliberationId() != id || got.GetMessage() == "" {
			t.Fatalf("got %v, %v", got, err)
		}
		return got.GetStatus()
	}
	f.submit(t, "d")
	f.submit(t, "e")
	f.submit(t, "g")
	f.journal.start("e")
	f.journal.start("old") // whose beginning the journal no longer keeps
	if _, err := f.journal.End(t.Context(), "g", &pb.DeliberationCompleted{}, ""); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ id, reason, want string }{
		{"d", "changed my mind", "cancelled"},
		{"d", "again", "cancelled"},
		{"e", "", "cancelled"},
		{"old", "", "cancelled"},
		{"g", "", "completed"},
		{"x", "", "not_found"},
	} {
		if got := cancel(step.id, step.reason); got != step.want {
			t.Errorf("%s is %s, want %s", step.id, got, step.want)
		}
	}
	for id, reason := range map[string]string{"d": "changed my mind", "e": "cancelled by the caller"} {
		status, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: id}, functions.Origin{})
		if err != nil || status.GetStatus() != "cancelled" || status.GetErrorMessage() != reason {
			t.Errorf("%s: %v, %v", id, status, err)
		}
	}
	for _, e := range f.journal.entries {
		if e.Kind == deliberation.KindDone && e.event.(interface{ GetDeliberationId() string }).GetDeliberationId() == "" && e.DeliberationID != "g" {
			t.Errorf("the end of %s does not name it", e.DeliberationID)
		}
	}
	f.journal.set(away)
	_, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}

// race is a journal on which somebody else ends a deliberation first.
type race struct{ *memory }

func (r race) End(ctx context.Context, id string, _ proto.Message, _ string) (bool, error) {
	_, err := r.memory.End(ctx, id, &pb.DeliberationCompleted{DeliberationId: id}, "")
	return false, err
}

func TestCancelTellsTheEndThatStands(t *testing.T) {
	t.Parallel()
	m := &memory{}
	f := setup(t, func(o *functions.Options) { o.Journal = race{m} })
	f.submit(t, "d")
	got, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"}, functions.Origin{})
	if err != nil || got.GetStatus() != "completed" {
		t.Errorf("got %v, %v", got, err)
	}
}

// stale is a journal in which an end stands that is not told yet.
type stale struct{ *memory }

func (stale) End(context.Context, string, proto.Message, string) (bool, error) { return false, nil }

func TestCancelTellsNoStateThatIsPast(t *testing.T) {
	t.Parallel()
	m := &memory{}
	f := setup(t, func(o *functions.Options) { o.Journal = stale{m} })
	f.submit(t, "d")
	_, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}

func TestStats(t *testing.T) {
	t.Parallel()
	fine := &pb.Cluster{Name: "east", Reachable: true, WorkerReplicas: 1, WorkerReplicasTarget: 1}
	for name, test := range map[string]struct {
		clusters []*pb.Cluster
		status   string
		reasons  []string
	}{
		"healthy":     {[]*pb.Cluster{fine}, "healthy", nil},
		"no clusters": {nil, "healthy", nil},
		"unreachable": {[]*pb.Cluster{fine, {Name: "west", Error: "refused"}}, "degraded", []string{"cluster west cannot be reached: refused"}},
		"no worker":   {[]*pb.Cluster{{Name: "west", Reachable: true, Error: "not deployed"}}, "degraded", []string{"cluster west runs 0 of 0 worker replicas: not deployed"}},
		"cut off": {
			[]*pb.Cluster{{Name: "west", Reachable: true, WorkerReplicas: 1, WorkerReplicasTarget: 1, Problems: []string{"no heartbeat", "model host a:1: refused"}}},
			"degraded",
			[]string{"cluster west: no heartbeat", "cluster west: model host a:1: refused"},
		},
		"too few": {[]*pb.Cluster{{Name: "west", Reachable: true, WorkerReplicas: 1, WorkerReplicasTarget: 2}}, "degraded", []string{"cluster west runs 1 of 2 worker replicas: has it been deployed, and is there room?"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, func(o *functions.Options) {
				o.Clusters = fleet(func(context.Context) []*pb.Cluster { return test.clusters })
			})
			f.submit(t, "d")
			f.submit(t, "e")
			f.journal.start("e")
			got, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{})
			if err != nil {
				t.Fatal(err)
			}
			want := &pb.RayExecutorStats{TotalDeliberations: 2, ActiveDeliberations: 2, QueuedDeliberations: 1}
			if got.GetStatus() != test.status || !proto.Equal(got.GetStats(), want) || len(got.GetClusters()) != len(test.clusters) ||
				strings.Join(got.GetReasons(), "|") != strings.Join(test.reasons, "|") {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestStatsDoNotWaitForClustersInVain: while the journal is away there is
// nothing to tell, and a cluster that hangs or panics takes nobody with it.
func TestStatsDoNotWaitForClustersInVain(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	f := setup(t, func(o *functions.Options) {
		o.Clusters = fleet(func(ctx context.Context) []*pb.Cluster { <-ctx.Done(); close(left); return nil })
	})
	f.journal.set(away)
	_, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
	<-left
	f = setup(t, func(o *functions.Options) {
		o.Clusters = fleet(func(context.Context) []*pb.Cluster { panic("a cluster") })
	})
	if got, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{}); err != nil || got.GetStats() == nil {
		t.Errorf("got %v, %v", got, err)
	}
	if !strings.Contains(f.logs.String(), "panic: a cluster") {
		t.Errorf("the log does not tell: %s", f.logs)
	}
}

func TestStatsKeepTheirTurn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	given, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 { // a failure leaves the ledger where it was
		f.journal.set(away)
		if _, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{}); err == nil {
			t.Fatal("no error")
		}
		f.journal.set(nil)
		if _, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{}); err != nil {
			t.Fatal(err)
		}
		_, _ = f.Stats(given, &pb.GetStatusRequest{}, functions.Origin{}) // whoever gave up holds up nobody
	}
}

func TestJobs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, id := range []string{"a", "b", "c"} {
		f.submit(t, id)
	}
	f.journal.start("b")
	if _, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "a"}, functions.Origin{}); err != nil {
		t.Fatal(err)
	}
	got, err := f.Jobs(t.Context(), &pb.GetActiveJobsRequest{}, functions.Origin{})
	if err != nil || len(got.GetJobs()) != 2 || got.GetJobs()[0].GetJobId() != "b" || got.GetJobs()[0].GetStatus() != "running" || got.GetJobs()[1].GetStatus() != "queued" {
		t.Errorf("got %v, %v", got, err)
	}
	f.journal.set(away)
	_, err = f.Jobs(t.Context(), &pb.GetActiveJobsRequest{}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}

func TestList(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, id := range []string{"a", "b", "c", "d"} {
		request := request(id)
		if id == "c" {
			request.Pool, request.TaskId = "gpu", "t-2"
		}
		if _, err := f.Submit(t.Context(), request, functions.Origin{}); err != nil {
			t.Fatal(err)
		}
	}
	f.journal.start("b")
	all := func(query *pb.ListDeliberationsRequest) string {
		var ids []string
		for {
			page, err := f.List(t.Context(), query, functions.Origin{})
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range page.GetDeliberations() {
				ids = append(ids, one.GetDeliberationId())
			}
			if query.PageToken = page.GetNextPageToken(); query.GetPageToken() == "" {
				return strings.Join(ids, "")
			}
		}
	}
	for want, query := range map[string]*pb.ListDeliberationsRequest{
		"dcba": {}, "dca": {State: "queued"}, "b": {State: "running"}, "c": {State: "queued", Pool: "gpu"},
		"da": {State: "queued", TaskId: "t-1"}, "": {State: "running", TaskId: "t-2"},
	} {
		for _, size := range []int32{0, 1, 2} {
			if got := all(&pb.ListDeliberationsRequest{State: query.GetState(), Pool: query.GetPool(), TaskId: query.GetTaskId(), PageSize: size}); got != want {
				t.Errorf("%v by %d: got %s, want %s", query, size, got, want)
			}
		}
	}
	for _, token := range []string{"x", "0", "-1", "1.5"} {
		_, err := f.List(t.Context(), &pb.ListDeliberationsRequest{PageToken: token}, functions.Origin{})
		refused(t, err, deliberation.Invalid, "page_token")
	}
	_, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: "odd"}, functions.Origin{})
	refused(t, err, deliberation.Invalid, "state")
	f.journal.set(away)
	for _, state := range []string{"", "queued"} {
		_, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: state}, functions.Origin{})
		refused(t, err, deliberation.Unavailable, "NATS_URL")
	}
}

// TestListIsBounded: a page looks at 1,000 deliberations at most, and says
// where to go on.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "wanted")
	f.journal.mu.Lock()
	for range 1500 {
		f.journal.write(deliberation.NewID(), deliberation.KindRequested, "default", &pb.DeliberationRequested{TaskId: "other"})
	}
	f.journal.mu.Unlock()
	first, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: "queued", TaskId: "t-1"}, functions.Origin{})
	if err != nil || len(first.GetDeliberations()) != 0 || first.GetNextPageToken() != "502" {
		t.Fatalf("got %v, %v", first, err)
	}
	second, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: "queued", TaskId: "t-1", PageToken: first.GetNextPageToken()}, functions.Origin{})
	if err != nil || len(second.GetDeliberations()) != 1 {
		t.Fatalf("got %v, %v", second, err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "d")
	f.ServeHTTP(httptest.NewRecorder(), post(t, "1", &pb.GetDeliberationStatusRequest{DeliberationId: "d"}))
	f.ServeHTTP(httptest.NewRecorder(), post(t, "2", &pb.GetDeliberationStatusRequest{}))
	f.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil))
	families, err := f.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), "ray_executor_requests") || strings.HasPrefix(family.GetName(), "ray_executor_deliberations") {
			for _, metric := range family.GetMetric() {
				told = append(told, metric.String())
			}
		}
	}
	data, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"ok`, `status`, `invalid_argument`, `unknown`} {
		if !strings.Contains(string(data), strings.Trim(want, `"`)) {
			t.Errorf("%s is not counted: %s", want, data)
		}
	}
}
