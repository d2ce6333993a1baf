package conformance_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/golden"
	"rayexecutor/tests/system"
)

// keyOf is what a context holds the API key of its calls under.
type keyOf struct{}

// withKey sends the key of a request's context.
type withKey struct{ http.RoundTripper }

func (w withKey) RoundTrip(r *http.Request) (*http.Response, error) {
	if key, _ := r.Context().Value(keyOf{}).(string); key != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+key)
	}
	return w.RoundTripper.RoundTrip(r)
}

func as(t *testing.T, key string) context.Context {
	t.Helper()
	return context.WithValue(context.WithoutCancel(t.Context()), keyOf{}, key)
}

// callers are who calls, by the column of the table. A key is its own name.
var callers = []struct{ column, fields string }{
	{"no key", ""},
	{"a wrong key", ""},
	{"without its scope", ""}, // a key that has all scopes but that of the operation
	{"another tenant", "tenant: b, scopes: [submit, read, cancel]"},
	{"the tenant", "tenant: a, scopes: [submit, read, cancel]"},
	{"admin", "tenant: operators, scopes: [admin]"},
}

var lacking = map[string]string{
	"submit": "tenant: a, scopes: [read, cancel]", "read": "tenant: a, scopes: [submit, cancel]", "cancel": "tenant: a, scopes: [submit, read]",
}

func keysFile(t *testing.T) string {
	t.Helper()
	var file strings.Builder
	fmt.Fprintln(&file, "keys:")
	add := func(key, fields string) {
		digest := sha256.Sum256([]byte(key))
		fmt.Fprintf(&file, "- {sha256: %s, %s}\n", hex.EncodeToString(digest[:]), fields)
	}
	for _, caller := range callers {
		if caller.fields != "" {
			add(caller.column, caller.fields)
		}
	}
	for scope, fields := range lacking {
		add("lacks "+scope, fields)
	}
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An operation is asked of a deliberation, and comes to codes in the order of
// callers.
type operation struct {
	name, scope string
	request     func(id string) proto.Message
	want        [6]string
}

// hidden is the outcome of a list that leaves a deliberation out.
const hidden = "hidden"

var operations = []operation{
	{
		"status", "read", func(id string) proto.Message { return &pb.GetDeliberationStatusRequest{DeliberationId: id} },
		[6]string{unauthenticated, unauthenticated, permissionDenied, notFound, ok, ok},
	},
	{
		"list", "read", func(string) proto.Message { return &pb.ListDeliberationsRequest{PageSize: 200} },
		[6]string{unauthenticated, unauthenticated, permissionDenied, hidden, ok, ok},
	},
	{
		"active jobs", "read", func(string) proto.Message { return &pb.GetActiveJobsRequest{} },
		[6]string{unauthenticated, unauthenticated, permissionDenied, hidden, ok, ok},
	},
	{
		"watch", "read", func(id string) proto.Message { return &pb.WatchDeliberationRequest{DeliberationId: id} },
		[6]string{unauthenticated, unauthenticated, permissionDenied, notFound, ok, ok},
	},
	{
		"statistics", "read", func(string) proto.Message { return &pb.GetStatusRequest{} },
		[6]string{unauthenticated, unauthenticated, permissionDenied, ok, ok, ok},
	},
	{
		"submit again", "submit", func(id string) proto.Message { return request(id) },
		[6]string{unauthenticated, unauthenticated, permissionDenied, conflict, ok, ok},
	},
	{ // last: it ends the deliberation
		"cancel", "cancel", func(id string) proto.Message { return &pb.CancelDeliberationRequest{DeliberationId: id} },
		[6]string{unauthenticated, unauthenticated, permissionDenied, notFound, ok, ok},
	},
}

// TestCallers asks every operation at every door with every kind of credentials. The
// table in docs/security.md is its log.
func TestCallers(t *testing.T) {
	sys := system.Served(t, system.Options{
		ModelURL: "http://" + allowedHost, Settings: []string{"KEEPER=false", "AUTH=keys", "AUTH_KEYS=" + keysFile(t)},
	})
	var table strings.Builder
	tableRow(&table, "operation", "door", columns()...)
	fmt.Fprintf(&table, "|---|---|%s\n", strings.Repeat("---|", len(callers)))
	doors := facesOf(sys.URL())
	ids := make(map[door]string)
	for _, f := range doors {
		ids[f] = fresh(t) + strings.Map(onlyLetters, f.name())
		if _, err := f.call(as(t, "the tenant"), call{request: request(ids[f])}); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range operations {
		for _, f := range doors {
			if _, isWatch := one.request("").(*pb.WatchDeliberationRequest); isWatch && !watches(f) {
				continue
			}
			tableRow(&table, one.name, f.name(), one.ask(t, f, ids[f])...)
		}
	}
	others(t, sys.URL(), &table)
	if !t.Failed() {
		compareSection(t, table.String())
	}
}

func columns() (names []string) {
	for _, caller := range callers {
		names = append(names, caller.column)
	}
	return names
}

func onlyLetters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
		return r
	}
	return -1
}

func tableRow(table *strings.Builder, operation, door string, cells ...string) {
	fmt.Fprintf(table, "| %s | %s | %s |\n", operation, door, strings.Join(cells, " | "))
}

// ask calls an operation as each caller, and returns the cells of its row.
func (o *operation) ask(t *testing.T, f door, id string) []string {
	t.Helper()
	cells := make([]string, len(callers))
	for n, caller := range callers {
		key := caller.column
		switch key {
		case "no key":
			key = ""
		case "without its scope":
			key = "lacks " + o.scope
		}
		got, err := o.call(as(t, key), f, id)
		if err != nil {
			t.Errorf("%s at %s with %s: %v", o.name, f.name(), caller.column, err)
			continue
		}
		if got.code == ok && leavesOut(got.reply, id) {
			got.code = hidden
		}
		if got.code != o.want[n] {
			t.Errorf("%s at %s with %s comes to %v, not to %s", o.name, f.name(), caller.column, got, o.want[n])
		}
		cells[n] = cell(got)
	}
	return cells
}

func (o *operation) call(ctx context.Context, f door, id string) (*outcome, error) {
	message := o.request(id)
	if watch, is := message.(*pb.WatchDeliberationRequest); is {
		return f.(watcher).watch(ctx, watch, func(*pb.WatchDeliberationResponse) bool { return false })
	}
	return f.call(ctx, call{request: message})
}

// leavesOut reports whether a list lacks a deliberation; false for other replies.
func leavesOut(reply proto.Message, id string) bool {
	switch list := reply.(type) {
	case *pb.ListDeliberationsResponse:
		return !slices.ContainsFunc(list.GetDeliberations(), func(d *pb.DeliberationSummary) bool { return d.GetDeliberationId() == id })
	case *pb.GetActiveJobsResponse:
		return !slices.ContainsFunc(list.GetJobs(), func(job *pb.JobInfo) bool { return job.GetJobId() == id })
	default:
		return false
	}
}

func cell(o *outcome) string {
	switch {
	case o.code == ok:
		return "✓"
	case o.code == hidden:
		return "left out"
	case o.code == notFound, o.wire == "200": // the refusal of an event of a batch
		return "`" + o.code + "` (" + o.wire + ")"
	default:
		return o.wire
	}
}

// others asks the routes that are no operations.
func others(t *testing.T, url string, table *strings.Builder) {
	t.Helper()
	for _, route := range []struct {
		name, verb, path, contentType, body string
		admin, open                         bool
	}{
		{name: "metrics", verb: http.MethodGet, path: "/metrics", admin: true},
		{name: "description", verb: http.MethodGet, path: "/openapi.json"},
		{name: "reflection", verb: http.MethodPost, path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", contentType: "application/grpc+proto", body: "\x00\x00\x00\x00\x02\x3a\x00"},
		{name: "health", verb: http.MethodGet, path: "/health/readiness", open: true},
		{name: "gRPC's health", verb: http.MethodPost, path: "/grpc.health.v1.Health/Check", contentType: "application/grpc+proto", body: "\x00\x00\x00\x00\x00", open: true},
	} {
		cells := make([]string, len(callers))
		for n, caller := range callers {
			if caller.column == "without its scope" {
				cells[n] = "–"
				continue
			}
			key := caller.column
			if key == "no key" {
				key = ""
			}
			got := visit(t, as(t, key), route.verb, url+route.path, route.contentType, route.body)
			want := "✓"
			switch known := caller.fields != ""; {
			case route.open:
			case !known && route.contentType == "":
				want = "401"
			case !known:
				want = unauthenticated
			case route.admin && caller.column != "admin":
				want = "403"
			}
			if got != want {
				t.Errorf("%s with %s is answered %s, not %s", route.name, caller.column, got, want)
			}
			cells[n] = got
		}
		tableRow(table, route.name, "`"+route.path+"`", cells...)
	}
}

// visit returns how a route answers: its status, or gRPC's.
func visit(t *testing.T, ctx context.Context, verb, url, contentType, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, verb, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header = http.Header{"Content-Type": {contentType}, "Te": {"trailers"}}
	}
	response, err := overHTTP2.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	status := response.Header.Get("Grpc-Status") + response.Trailer.Get("Grpc-Status")
	switch {
	case response.StatusCode == http.StatusOK && (status == "" || status == "0"):
		return "✓"
	case status == "16":
		return unauthenticated
	default:
		return fmt.Sprint(response.StatusCode, status)
	}
}

const tableHeading = "## At every door\n"

// compareSection holds the table against the last section of docs/security.md.
func compareSection(t *testing.T, table string) {
	t.Helper()
	path := filepath.Join(system.Root(), "docs", "security.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, found := strings.Cut(string(text), tableHeading)
	if !found {
		t.Fatalf("docs/security.md has no section %q", tableHeading)
	}
	want := before + tableHeading + "\nEach operation with each kind of key, as `go test ./tests/conformance -run TestCallers -update` saw it. The deliberation is one of \"the tenant\".\n\n" + table
	golden.Check(t, path, []byte(want))
}
