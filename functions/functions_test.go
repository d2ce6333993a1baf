package functions_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

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
	var metrics []string
	for _, family := range families {
		if strings.HasPrefix(family.GetName(), "ray_executor_requests") || strings.HasPrefix(family.GetName(), "ray_executor_deliberations") {
			for _, metric := range family.GetMetric() {
				metrics = append(metrics, metric.String())
			}
		}
	}
	data, err := json.Marshal(metrics)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"ok`, `status`, `invalid_argument`, `unknown`} {
		if !strings.Contains(string(data), strings.Trim(want, `"`)) {
			t.Errorf("%s is not counted: %s", want, data)
		}
	}
}
