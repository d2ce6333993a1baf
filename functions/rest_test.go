package functions_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

func read(t *testing.T, from io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// rest calls the JSON API; headers are names and values in turn.
func (f *fixture) rest(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	mux := http.NewServeMux()
	f.Mount(mux)
	recorder := httptest.NewRecorder()
	mux.ServeHTTP(recorder, r)
	return recorder
}

const submission = `{"task_id":"t-1","taskDescription":"Decide.","role":"DEV","agents":[{"id":"a"}]}`

// TestREST walks through a deliberation's life.
func TestREST(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, step := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/v1/deliberations", `{"deliberation_id":"d",` + submission[1:], 202, `"deliberation_id":"d","status":"submitted"`},
		{"POST", "/v1/deliberations", `{"deliberationId":"d",` + submission[1:], 200, `was accepted before`},
		{"POST", "/v1/deliberations", `{"deliberation_id":"d","vllm_model":"n",` + submission[1:], 422, `"code":"conflict"`},
		{"GET", "/v1/deliberations/d", "", 200, `"status":"queued"`},
		{"GET", "/v1/deliberations?state=queued&page_size=5", "", 200, `"task_id":"t-1"`},
		{"GET", "/v1/deliberations?labels=team=a&labels=run=1", "", 200, `"deliberations":[],`},
		{"GET", "/v1/deliberations?taskId=t-1", "", 200, `"task_id":"t-1"`},
		{"GET", "/v1/jobs", "", 200, `"job_id":"d"`},
		{"POST", "/v1/deliberations/d:cancel", `{"reason":"no need"}`, 200, `"status":"cancelled"`},
		{"POST", "/v1/deliberations/d:cancel", "", 200, `"status":"cancelled"`},
		{"GET", "/v1/deliberations/%64", "", 200, `"error_message":"no need"`},
		{"GET", "/v1/stats?include_stats=true", "", 200, `"total_deliberations":"1"`},
		{"HEAD", "/v1/stats", "", 200, ``},
		{"GET", "/openapi.json", "", 200, `"openapi": "3.1.0"`},
	} {
		got := f.rest(step.method, step.path, step.body)
		if got.Code != step.status || !strings.Contains(got.Body.String(), step.says) {
			t.Errorf("%s %s: %d %s, want %d %s", step.method, step.path, got.Code, got.Body, step.status, step.says)
		}
		if step.status == http.StatusAccepted && got.Header().Get("Location") != "/v1/deliberations/d" {
			t.Errorf("Location: %q", got.Header().Get("Location"))
		}
	}
}

// TestRESTRefuses as the table has it, by a problem that names the field.
func TestRESTRefuses(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, test := range map[string]struct {
		method, path, body string
		status             int
		field, says        string
	}{
		"unknown path":       {"GET", "/v2/stats", "", 404, "path", "POST /v1/deliberations/{deliberation_id}:cancel"},
		"unknown id":         {"GET", "/v1/deliberations/x", "", 404, "deliberation_id", "no such"},
		"cancel unknown":     {"POST", "/v1/deliberations/x:cancel", "", 404, "deliberation_id", "no such"},
		"watch unknown":      {"GET", "/v1/deliberations/x/events", "", 404, "deliberation_id", "no such"},
		"no id":              {"GET", "/v1/deliberations/a:b", "", 400, "deliberation_id", "1 to 64"},
		"no UTF-8":           {"GET", "/v1/deliberations/%ff", "", 400, "deliberation_id", "string"},
		"a slash":            {"GET", "/v1/deliberations/a%2Fb", "", 400, "deliberation_id", "1 to 64"},
		"two ids":            {"POST", "/v1/deliberations/x:cancel", `{"deliberation_id":"y"}`, 400, "deliberation_id", "two"},
		"method":             {"DELETE", "/v1/deliberations/x", "", 405, "method", "GET"},
		"method of a verb":   {"GET", "/v1/deliberations/x:cancel", "", 405, "method", "POST"},
		"unknown field":      {"POST", "/v1/deliberations", `{"task":"t"}`, 400, "data", `unknown field "task"`},
		"no JSON":            {"POST", "/v1/deliberations", `{`, 400, "data", "JSON"},
		"no body":            {"POST", "/v1/deliberations", ``, 400, "task_id", "blank"},
		"too large":          {"POST", "/v1/deliberations", `{"role":"` + strings.Repeat("x", deliberation.MaxRequestBytes) + `"}`, 413, "request", "are taken"},
		"far too large":      {"POST", "/v1/deliberations", `{"role":"` + strings.Repeat("x", 8<<20) + `"}`, 413, "request", "1 MiB"},
		"a query beside":     {"POST", "/v1/deliberations?role=DEV", submission, 400, "role", "body"},
		"unknown parameter":  {"GET", "/v1/deliberations?sate=queued", "", 400, "sate", "state, pool, task_id, page_size, page_token, labels"},
		"parameter twice":    {"GET", "/v1/deliberations?pool=a&pool=b", "", 400, "pool", "2 times"},
		"no number":          {"GET", "/v1/deliberations?page_size=all", "", 400, "page_size", "int32"},
		"out of range":       {"GET", "/v1/deliberations?page_size=1000", "", 400, "page_size", "200"},
		"no token":           {"GET", "/v1/deliberations?page_token=x", "", 400, "page_token", "next_page_token"},
		"no query":           {"GET", "/v1/deliberations?pool=%", "", 400, "query", "percent"},
		"no bool":            {"GET", "/v1/stats?include_stats=perhaps", "", 400, "include_stats", "bool"},
		"sequence":           {"GET", "/v1/deliberations/x/events?after_sequence=-1", "", 400, "after_sequence", "uint64"},
		"CloudEvents by GET": {"GET", "/", "", 405, "method", "POST"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := f.rest(test.method, test.path, test.body)
			problem := readProblem(t, got, test.status)
			if problem.Field != test.field || !strings.Contains(problem.Detail, test.says) {
				t.Errorf("got %+v", problem)
			}
			if (test.status == http.StatusMethodNotAllowed) != (got.Header().Get("Allow") != "") {
				t.Errorf("Allow: %q", got.Header().Get("Allow"))
			}
		})
	}
	readProblem(t, f.rest("POST", "/v1/deliberations", submission, "Content-Type", "text/plain"), http.StatusUnsupportedMediaType)
}

// TestRESTWithoutNATS says which deliberation it was, and when to come back.
func TestRESTWithoutNATS(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.journal.set(away)
	got := f.rest("POST", "/v1/deliberations", submission, "Idempotency-Key", "k")
	if problem := readProblem(t, got, 503); got.Header().Get("Retry-After") != "2" || problem.DeliberationID != "k" {
		t.Errorf("%+v %v", problem, got.Header())
	}
}

// TestIdempotencyKey: the same key is the same deliberation.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, step := range []struct {
		key, body string
		status    int
		id        string
	}{
		{"k-1", submission, 202, "k-1"},
		{"k-1", submission, 200, "k-1"},
		{`"k-1"`, submission, 200, "k-1"},
		{"k-1", strings.Replace(submission, "Decide", "Think", 1), 422, "k-1"},
		{"k/1", submission, 202, "key-" + deliberation.Digest("k/1")},
		{`"k/1"`, submission, 200, "key-" + deliberation.Digest("k/1")},
		{"k-2", `{"deliberation_id":"k-2",` + submission[1:], 202, "k-2"},
		{"k-3", `{"deliberation_id":"other",` + submission[1:], 400, ""},
		{"", submission, 400, ""},
		{`""`, submission, 400, ""},
	} {
		got := f.rest("POST", "/v1/deliberations", step.body, "Idempotency-Key", step.key, "traceparent", trace)
		var problem struct {
			ID    string `json:"deliberation_id"`
			Field string
		}
		if err := json.Unmarshal(got.Body.Bytes(), &problem); err != nil {
			t.Fatal(err)
		}
		if got.Code != step.status || problem.ID != step.id || step.status == 400 && problem.Field != "Idempotency-Key" {
			t.Errorf("%s: %d %s", step.key, got.Code, got.Body)
		}
	}
	if f.journal.traces[0] != trace {
		t.Error("the trace is lost")
	}
}

// TestRESTNarrows what an instance serves.
func TestRESTNarrows(t *testing.T) {
	t.Parallel()
	f := setup(t, func(o *functions.Options) { o.Serve = []string{"submit"} })
	if got := f.rest("POST", "/v1/deliberations", submission); got.Code != 202 {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	readProblem(t, f.rest("GET", "/v1/deliberations", ""), 405)
	readProblem(t, f.rest("GET", "/v1/deliberations/d/events", ""), 404)
	readProblem(t, f.rest("GET", "/v1/stats", ""), 404)
}

// TestOpenAPI describes each route that is served, and points at nothing that
// is not there.
func TestOpenAPI(t *testing.T) {
	t.Parallel()
	var document struct {
		Paths      map[string]map[string]any
		Components struct{ Schemas, Responses map[string]any }
	}
	if err := json.Unmarshal(pb.OpenAPI, &document); err != nil {
		t.Fatal(err)
	}
	f := setup(t)
	routes := readProblem(t, f.rest("GET", "/nowhere", ""), 404).Detail
	for path, methods := range document.Paths {
		for method := range methods {
			if !strings.Contains(routes, path) {
				t.Errorf("%s %s is not served", method, path)
			}
		}
	}
	if strings.Count(routes, "/v1/") != len(document.Paths) {
		t.Errorf("served are %s", routes)
	}
	for rest := string(pb.OpenAPI); ; {
		_, after, found := strings.Cut(rest, `"$ref": "#/components/`)
		if !found {
			break
		}
		name, _, _ := strings.Cut(after, `"`)
		kind, name, _ := strings.Cut(name, "/")
		if document.Components.Schemas[name] == nil && document.Components.Responses[name] == nil {
			t.Errorf("there is no %s %s", kind, name)
		}
		rest = after
	}
}

// FuzzREST: whatever comes has an answer that is documented.
func FuzzREST(f *testing.F) {
	for _, seed := range [][4]string{
		{"POST", "/v1/deliberations", submission, "k"},
		{"GET", "/v1/deliberations?state=queued", "", "0"},
		{"GET", "/v1/deliberations/x/events", "", "7"},
		{"POST", "/v1/deliberations/x:cancel", "{}", ""},
		{"GET", "/v1/deliberations/%2e%2e%2f?x=%zz", "", ""},
		{"PATCH", "/v1/jobs", "null", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	served := setup(f)
	mux := http.NewServeMux()
	served.Mount(mux)
	f.Fuzz(func(t *testing.T, method, target, body, header string) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a watch lasts until the end
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, "http://host"+target, strings.NewReader(body))
		if err != nil || r.Method == "CONNECT" || r.URL.Host != "host" {
			t.Skip()
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", header)
		r.Header.Set("Last-Event-ID", header)
		got := httptest.NewRecorder()
		mux.ServeHTTP(got, r)
		if got.Code >= 500 {
			t.Errorf("%s %s: %d %s", method, target, got.Code, got.Body)
		}
	})
}
