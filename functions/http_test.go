package functions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/functions"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestMain(m *testing.M) { journaltest.VerifyTestMain(m) }

// asEvent is the event that carries a request, in proto3 JSON.
func asEvent(tb testing.TB, id string, request proto.Message) event.Event {
	tb.Helper()
	data, err := protojson.Marshal(request)
	if err != nil {
		tb.Fatal(err)
	}
	e := event.New()
	e.SetID(id)
	e.SetSource("/caller")
	e.SetType(events.Type(request))
	e.SetExtension("traceparent", trace)
	if err := e.SetData(events.JSON, json.RawMessage(data)); err != nil {
		tb.Fatal(err)
	}
	return e
}

// post is a request in binary mode.
func post(tb testing.TB, id string, request proto.Message) *http.Request {
	tb.Helper()
	e := asEvent(tb, id, request)
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	if err := cehttp.WriteRequest(tb.Context(), (*binding.EventMessage)(&e), r); err != nil {
		tb.Fatal(err)
	}
	return r
}

// batch is a request in batch mode.
func batch(tb testing.TB, batch ...event.Event) *http.Request {
	tb.Helper()
	body, err := json.Marshal(append([]event.Event{}, batch...))
	if err != nil {
		tb.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(string(body)))
	r.Header.Set("Content-Type", event.ApplicationCloudEventsBatchJSON)
	return r
}

func (f *fixture) serve(r *http.Request) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	f.Mount(mux)
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, r)
	return recorder
}

// problem is the body of a refusal.
type problem struct {
	Type, Title, Detail, Code, Field string
	Status                           int
	DeliberationID                   string `json:"deliberation_id"`
}

func readProblem(t *testing.T, got *httptest.ResponseRecorder, status int) problem {
	t.Helper()
	var read problem
	if err := json.Unmarshal(got.Body.Bytes(), &read); err != nil {
		t.Fatalf("%d %s: %v", got.Code, got.Body, err)
	}
	if got.Code != status || read.Status != status || got.Header().Get("Content-Type") != "application/problem+json" || read.Title == "" {
		t.Errorf("got %d %+v, want %d", got.Code, read, status)
	}
	return read
}

// TestRouter: every request has its reply, by the type of the event.
func TestRouter(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, test := range map[string]struct {
		request proto.Message
		reply   string
	}{
		"submit": {request("d"), "ExecuteDeliberationResponse"},
		"status": {&pb.GetDeliberationStatusRequest{DeliberationId: "d"}, "GetDeliberationStatusResponse"},
		"stats":  {&pb.GetStatusRequest{}, "GetStatusResponse"},
		"jobs":   {&pb.GetActiveJobsRequest{}, "GetActiveJobsResponse"},
		"cancel": {&pb.CancelDeliberationRequest{DeliberationId: "d"}, "CancelDeliberationResponse"},
		"list":   {&pb.ListDeliberationsRequest{}, "ListDeliberationsResponse"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := f.serve(post(t, name, test.request))
			if got.Code != http.StatusOK {
				t.Fatalf("%d %s", got.Code, got.Body)
			}
			reply, err := binding.ToEvent(t.Context(), cehttp.NewMessageFromHttpResponse(got.Result()))
			if err != nil {
				t.Fatal(err)
			}
			subject := map[bool]string{true: "d"}[strings.Contains("submit status cancel", name)]
			if reply.Type() != "ray_executor.v1."+test.reply || reply.Subject() != subject ||
				reply.Extensions()["traceparent"] != trace || reply.Validate() != nil {
				t.Errorf("got %s", reply)
			}
			if again := f.serve(post(t, name, test.request)); again.Header().Get("Ce-Id") != reply.ID() {
				t.Error("sent again, its reply has another id")
			}
		})
	}
}

// TestServeNarrows what an instance serves.
func TestServeNarrows(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *functions.Options) { o.Serve = []string{"status"} })
	if got := f.serve(post(t, "1", &pb.GetDeliberationStatusRequest{DeliberationId: "d"})); got.Code != http.StatusOK {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	problem := readProblem(t, f.serve(post(t, "2", request("d"))), http.StatusBadRequest)
	if want := `type: "ray_executor.v1.ExecuteDeliberationRequest" is not served here; served are ray_executor.v1.GetDeliberationStatusRequest`; problem.Detail != want || problem.Field != "type" {
		t.Errorf("got %q, want %q", problem.Detail, want)
	}
}

// TestErrorTable: each code has its status; what repeating helps with carries
// Retry-After; what was not foreseen says `internal` and is logged.
func TestErrorTable(t *testing.T) {
	t.Parallel()
	cause := errors.New("the secret cause")
	for name, test := range map[string]struct {
		err        error
		status     int
		retryAfter string
		code       deliberation.Code
		detail     string
		logged     string
	}{
		"invalid":      {deliberation.Invalidf("pool", "is odd"), 400, "", deliberation.Invalid, "pool: is odd", ""},
		"conflict":     {&deliberation.Error{Code: deliberation.Conflict, Field: "deliberation_id", Message: "taken"}, 422, "", deliberation.Conflict, "deliberation_id: taken", ""},
		"too large":    {&deliberation.Error{Code: deliberation.TooLarge, Field: "request", Message: "big"}, 413, "", deliberation.TooLarge, "request: big", ""},
		"not found":    {&deliberation.Error{Code: deliberation.NotFound, Field: "deliberation_id", Message: "none"}, 404, "", deliberation.NotFound, "deliberation_id: none", ""},
		"limit":        {&deliberation.Error{Code: deliberation.LimitReached, Field: "journal", Message: "full", RetryAfter: 30 * time.Second, Cause: cause}, 429, "30", deliberation.LimitReached, "journal: full", "the secret cause"},
		"unavailable":  {&deliberation.Error{Code: deliberation.Unavailable, Field: "NATS_URL", Message: "away", RetryAfter: 1500 * time.Millisecond, Cause: cause}, 503, "2", deliberation.Unavailable, "NATS_URL: away", "the secret cause"},
		"without time": {&deliberation.Error{Code: deliberation.Unavailable, Field: "NATS_URL", Message: "away"}, 503, "1", deliberation.Unavailable, "NATS_URL: away", ""},
		"wrapped":      {fmt.Errorf("outer: %w", deliberation.Invalidf("pool", "is odd")), 400, "", deliberation.Invalid, "pool: is odd", ""},
		"given up":     {fmt.Errorf("read: %w", context.Canceled), 503, "1", deliberation.Unavailable, "request: was given up", "context canceled"},
		"unforeseen":   {cause, 500, "", deliberation.Internal, "internal", "the secret cause"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.journal.set(test.err)
			got := f.serve(post(t, "1", request("d")))
			problem := readProblem(t, got, test.status)
			if problem.Code != string(test.code) || !strings.HasPrefix(problem.Detail, test.detail) || problem.DeliberationID != "d" {
				t.Errorf("got %+v", problem)
			}
			if test.code == deliberation.Internal && problem.Detail != "internal" {
				t.Errorf("an unforeseen error says %q", problem.Detail)
			}
			if got.Header().Get("Retry-After") != test.retryAfter {
				t.Errorf("Retry-After: %q, want %q", got.Header().Get("Retry-After"), test.retryAfter)
			}
			if strings.Contains(got.Body.String(), "secret") {
				t.Errorf("the cause is sent: %s", got.Body)
			}
			if !strings.Contains(f.logs.String(), test.logged) || !strings.Contains(f.logs.String(), string(test.code)) {
				t.Errorf("the log lacks %q: %s", test.logged, f.logs)
			}
		})
	}
}

func TestAPanicIsInternal(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.journal.panics = "the secret cause"
	problem := readProblem(t, f.serve(post(t, "1", request("d"))), http.StatusInternalServerError)
	if problem.Detail != "internal" || problem.Code != "internal" {
		t.Errorf("got %+v", problem)
	}
	if log := f.logs.String(); !strings.Contains(log, "panic: the secret cause") || !strings.Contains(log, "submit.go") || !strings.Contains(log, `"ERROR"`) {
		t.Errorf("the log lacks the cause: %s", log)
	}
}

func TestRefusalsAtTheDoor(t *testing.T) {
	t.Parallel()
	f := setup(t)
	with := func(r *http.Request, change func(*http.Request)) *http.Request { change(r); return r }
	status := &pb.GetDeliberationStatusRequest{DeliberationId: "d"}
	for name, test := range map[string]struct {
		request *http.Request
		status  int
		field   string
	}{
		"get":            {httptest.NewRequest(http.MethodGet, "/", nil), 405, "method"},
		"head":           {httptest.NewRequest(http.MethodHead, "/", nil), 405, "method"},
		"put":            {with(post(t, "1", status), func(r *http.Request) { r.Method = http.MethodPut }), 405, "method"},
		"no event":       {httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}")), 400, "request"},
		"no id":          {with(post(t, "1", status), func(r *http.Request) { r.Header.Del("Ce-Id") }), 400, "id"},
		"unknown type":   {with(post(t, "1", status), func(r *http.Request) { r.Header.Set("Ce-Type", "x") }), 400, "type"},
		"content type":   {with(post(t, "1", status), func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }), 400, "datacontenttype"},
		"bad data":       {with(post(t, "1", status), func(r *http.Request) { r.Body = http.NoBody; r.Header.Set("Content-Type", "a/b/c") }), 400, "datacontenttype"},
		"field":          {post(t, "1", &pb.GetDeliberationStatusRequest{DeliberationId: "*"}), 400, "deliberation_id"},
		"data too large": {post(t, "1", &pb.GetDeliberationStatusRequest{DeliberationId: strings.Repeat("x", 1<<20)}), 413, "data"},
		"body too large": {httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("x", 9<<20))), 413, "request"},
		"event too large": {with(post(t, "1", &pb.GetDeliberationStatusRequest{DeliberationId: strings.Repeat("x", 9<<20)}),
			func(*http.Request) {}), 413, "request"},
		"batch too large": {with(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(strings.Repeat("[", 9<<20))),
			func(r *http.Request) { r.Header.Set("Content-Type", event.ApplicationCloudEventsBatchJSON) }), 413, "request"},
		"batch too long": {batch(t, make1001(t)...), 413, "request"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := f.serve(test.request)
			if problem := readProblem(t, got, test.status); problem.Field != test.field {
				t.Errorf("got %+v, want field %s", problem, test.field)
			}
			if test.status == http.StatusMethodNotAllowed && got.Header().Get("Allow") != "POST" {
				t.Error("no Allow header")
			}
			if got.Header().Get("Retry-After") != "" {
				t.Error("repeating it does not help")
			}
		})
	}
}

func make1001(tb testing.TB) []event.Event {
	tb.Helper()
	many := make([]event.Event, 1001)
	for i := range many {
		many[i] = asEvent(tb, fmt.Sprint(i), &pb.GetStatusRequest{})
	}
	return many
}

func readBatch(t *testing.T, got *httptest.ResponseRecorder) []event.Event {
	t.Helper()
	var replies []event.Event
	if got.Code != http.StatusOK || got.Header().Get("Content-Type") != event.ApplicationCloudEventsBatchJSON {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	if err := json.Unmarshal(got.Body.Bytes(), &replies); err != nil {
		t.Fatal(err)
	}
	return replies
}

// TestBatch: one reply an event in the same order, refusals among them.
func TestBatch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "taken")
	unknown := asEvent(t, "3", &pb.GetStatusRequest{})
	unknown.SetType("unknown.type")
	text := asEvent(t, "4", &pb.GetStatusRequest{})
	text.SetDataContentType("text/plain")
	text.DataEncoded = []byte("x")
	conflict := request("taken")
	conflict.Role = "QA"
	whole := []event.Event{
		asEvent(t, "1", request("new")),
		asEvent(t, "2", &pb.GetDeliberationStatusRequest{DeliberationId: "new"}),
		unknown, text,
		asEvent(t, "5", conflict),
		asEvent(t, "6", &pb.CancelDeliberationRequest{DeliberationId: "*"}),
		asEvent(t, "7", request("")),
		asEvent(t, "7", request("")),
	}
	body, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(body), "[", `[{"id":"0","source":"/caller"},`, 1)
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(broken))
	r.Header.Set("Content-Type", event.ApplicationCloudEventsBatchJSON)
	replies := readBatch(t, f.serve(r))
	want := []struct{ kind, field, code string }{
		{"Error", "specversion", "invalid_argument"},
		{"ExecuteDeliberationResponse", "", ""},
		{"GetDeliberationStatusResponse", "", ""},
		{"Error", "type", "invalid_argument"},
		{"Error", "datacontenttype", "invalid_argument"},
		{"Error", "deliberation_id", "conflict"},
		{"Error", "deliberation_id", "invalid_argument"},
		{"ExecuteDeliberationResponse", "", ""},
		{"ExecuteDeliberationResponse", "", ""},
	}
	if len(replies) != len(want) {
		t.Fatalf("%d replies to %d events", len(replies), len(want))
	}
	for i, reply := range replies {
		if reply.Type() != "ray_executor.v1."+want[i].kind || reply.Validate() != nil {
			t.Errorf("reply %d is %s", i, reply)
		}
		if want[i].kind != "Error" {
			continue
		}
		var problem pb.Error
		if err := events.Decode(&reply, &problem); err != nil || problem.GetCode() != want[i].code || problem.GetField() != want[i].field || problem.GetMessage() == "" {
			t.Errorf("reply %d: %v, %v", i, &problem, err)
		}
	}
	if replies[5].Subject() != "taken" || replies[7].ID() != replies[8].ID() || replies[7].Subject() != replies[8].Subject() {
		t.Error("a conflict is about its deliberation, and the same event twice is one deliberation")
	}
	if got := readBatch(t, f.serve(batch(t))); len(got) != 0 {
		t.Errorf("an empty batch: %v", got)
	}
}

// TestSubmissionsOfABatchAreUnderWayTogether: each waits until all are there.
func TestSubmissionsOfABatchAreUnderWayTogether(t *testing.T) {
	t.Parallel()
	const all = 10
	m := &meeting{memory: &memory{}}
	m.missing.Add(all)
	f := setup(t, func(o *functions.Options) { o.Journal = m })
	whole := make([]event.Event, all)
	for i := range whole {
		whole[i] = asEvent(t, fmt.Sprint(i), request(fmt.Sprintf("d-%d", i)))
	}
	for i, reply := range readBatch(t, f.serve(batch(t, whole...))) {
		if want := fmt.Sprintf("d-%d", i); reply.Subject() != want {
			t.Errorf("reply %d is about %s", i, reply.Subject())
		}
	}
}

// meeting is a journal that accepts nothing until all submissions are there.
type meeting struct {
	*memory
	missing sync.WaitGroup
}

func (m *meeting) Accept(ctx context.Context, record *pb.DeliberationRequested, traceParent string) (*pb.DeliberationRequested, error) {
	m.missing.Done()
	m.missing.Wait()
	return m.memory.Accept(ctx, record, traceParent)
}

// TestBatchIsRefusedWhole for want of a dependency or by a limit, and then it
// is safe to send it again.
func TestBatchIsRefusedWhole(t *testing.T) {
	t.Parallel()
	full := &deliberation.Error{Code: deliberation.LimitReached, Field: "journal", Message: "full", RetryAfter: 30 * time.Second}
	for status, fail := range map[int]error{503: away, 429: full} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			m := &memory{}
			f := setup(t, func(o *functions.Options) {
				o.Journal = &failing{memory: m, id: deliberation.DerivedID("/caller", "2"), with: fail}
			})
			whole := func() *http.Request { return batch(t, asEvent(t, "1", request("")), asEvent(t, "2", request(""))) }
			got := f.serve(whole())
			problem := readProblem(t, got, status)
			if got.Header().Get("Retry-After") == "" || problem.DeliberationID != deliberation.DerivedID("/caller", "2") {
				t.Errorf("got %+v, Retry-After %q", problem, got.Header().Get("Retry-After"))
			}
			replies := readBatch(t, f.serve(whole()))
			if len(replies) != 2 || len(m.entries) != 2 {
				t.Errorf("sent again: %d replies, %d deliberations", len(replies), len(m.entries))
			}
		})
	}
}

// failing is a journal that fails one deliberation, once.
type failing struct {
	*memory
	id   string
	with error
	once sync.Once
}

func (f *failing) Accept(ctx context.Context, record *pb.DeliberationRequested, traceParent string) (*pb.DeliberationRequested, error) {
	var err error
	if record.GetDeliberationId() == f.id {
		f.once.Do(func() { err = f.with })
	}
	if err != nil {
		return nil, err
	}
	return f.memory.Accept(ctx, record, traceParent)
}

// TestAnUnforeseenErrorTakesItsPlaceInABatch: it would stop the others again
// and again.
func TestAnUnforeseenErrorTakesItsPlaceInABatch(t *testing.T) {
	t.Parallel()
	m := &memory{}
	f := setup(t, func(o *functions.Options) {
		o.Journal = &failing{memory: m, id: deliberation.DerivedID("/caller", "1"), with: errors.New("secret")}
	})
	replies := readBatch(t, f.serve(batch(t, asEvent(t, "1", request("")), asEvent(t, "2", request("")))))
	var problem pb.Error
	if err := events.Decode(&replies[0], &problem); err != nil || problem.GetCode() != "internal" || problem.GetMessage() != "internal" {
		t.Errorf("got %v, %v", &problem, err)
	}
	if replies[1].Type() != "ray_executor.v1.ExecuteDeliberationResponse" {
		t.Errorf("got %s", replies[1])
	}
}

// TestManyCallersAtOnce: of 50 who submit the same, one is the first.
func TestManyCallersAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			if got := f.serve(post(t, fmt.Sprint(i), request("d"))); got.Code != http.StatusOK {
				t.Errorf("%d %s", got.Code, got.Body)
			}
			f.serve(post(t, fmt.Sprint(i), &pb.GetStatusRequest{}))
			f.serve(post(t, fmt.Sprint(i), &pb.GetActiveJobsRequest{}))
		})
	}
	wait.Wait()
	if len(f.journal.entries) != 1 {
		t.Errorf("%d deliberations", len(f.journal.entries))
	}
}

func Example() {
	rules, err := deliberation.NewRules(deliberation.Settings{
		Pools: []string{"default"}, ModelHosts: []string{"vllm"}, ModelURL: "http://vllm", Model: "qwen",
	})
	if err != nil {
		panic(err)
	}
	served := functions.New(functions.Options{
		Journal: &memory{}, Rules: rules, Serve: []string{"submit", "status"}, Log: slog.Default(),
	})
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{
		"task_id": "t-1", "task_description": "Choose a database.", "role": "ARCHITECT",
		"agents": [{"id": "a-1"}, {"id": "a-2"}], "deliberation_id": "d-1"}`))
	r.Header.Set("ce-specversion", "1.0")
	r.Header.Set("ce-id", "1")
	r.Header.Set("ce-source", "/orchestrator")
	r.Header.Set("ce-type", "ray_executor.v1.ExecuteDeliberationRequest")
	r.Header.Set("content-type", "application/json")
	w := httptest.NewRecorder()
	served.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Header().Get("Ce-Type"), w.Header().Get("Ce-Subject"))
	fmt.Fprintln(os.Stdout, w.Body)
	// Output:
	// 200 ray_executor.v1.ExecuteDeliberationResponse d-1
	// {"deliberation_id":"d-1","status":"submitted","message":"accepted; GetDeliberationStatus returns its state"}
}
