package functions_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/proto"

	"rayexecutor/auth"
	"rayexecutor/deliberation"
	"rayexecutor/functions"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
	"rayexecutor/tests/await"
)

// keys are API keys and what the file says of each.
func keys(tb testing.TB, entries map[string]string) func(*functions.Options) {
	tb.Helper()
	var file strings.Builder
	fmt.Fprintln(&file, "keys:")
	for key, fields := range entries {
		digest := sha256.Sum256([]byte(key))
		fmt.Fprintf(&file, "- {sha256: %s, %s}\n", hex.EncodeToString(digest[:]), fields)
	}
	path := filepath.Join(tb.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	check, err := auth.New(auth.Options{Auth: "keys", Keys: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return func(o *functions.Options) { o.Auth = check }
}

var someKeys = map[string]string{
	"writer":   "tenant: a, scopes: [submit], pools: [gpu]",
	"reader":   "tenant: a, scopes: [read]",
	"canceler": "tenant: a, scopes: [cancel]",
	"admin":    "tenant: ops, scopes: [admin]",
}

// sendAs sends a request over HTTP/2, with a key unless it is empty.
func (d *doors) sendAs(t *testing.T, verb, path, contentType, body, key string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), verb, d.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := d.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

const oneEvent = `{"specversion": "1.0", "id": "1", "source": "/s", "type": "ray_executor.v1.GetStatusRequest", "data": {}}`

// httpDoors are the doors whose refusals are statuses.
var httpDoors = map[string][3]string{ // verb and path, content type, body
	"structured":     {"POST /", "application/cloudevents+json", oneEvent},
	"batch":          {"POST /", "application/cloudevents-batch+json", "[" + oneEvent + "]"},
	"binary":         {"POST /", "application/json", "{}"},
	"statistics":     {"GET /v1/stats"},
	"watch":          {"GET /v1/deliberations/d/events"},
	"submit":         {"POST /v1/deliberations", "application/json", "{}"},
	"no such path":   {"GET /v1/nothing"},
	"no such method": {"DELETE /v1/stats"},
	"description":    {"GET /openapi.json"},
	"Connect":        {"POST /ray_executor.v1.RayExecutorService/GetStatus", "application/json", "{}"},
}

// TestNobodyPassesWithoutCredentials: no door reads a body, and all give the same
// answer.
func TestNobodyPassesWithoutCredentials(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, someKeys))
	for name, door := range httpDoors {
		verb, path, _ := strings.Cut(door[0], " ")
		for _, key := range []string{"", "wrong"} {
			got := d.sendAs(t, verb, path, door[1], door[2], key)
			body, _ := io.ReadAll(got.Body)
			if got.StatusCode != http.StatusUnauthorized || got.Header.Get("WWW-Authenticate") != "Bearer" || !strings.Contains(string(body), "unauthenticated") {
				t.Errorf("%s with key %q: %s %v %s", name, key, got.Status, got.Header, body)
			}
		}
	}
	for name, options := range protocols {
		client := d.client(options...)
		_, err := client.GetStatus(t.Context(), &pb.GetStatusRequest{})
		rpcRefused(t, name, err, connect.CodeUnauthenticated)
		stream, err := client.WatchDeliberation(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: "d"})
		if err == nil {
			stream.Receive()
			err = stream.Err()
			_ = stream.Close()
		}
		rpcRefused(t, name+" stream", err, connect.CodeUnauthenticated)
	}
	reflection := grpcreflect.NewClient(d.http, d.url, connect.WithGRPC()).NewStream(t.Context())
	_, err := reflection.ListServices()
	_, _ = reflection.Close()
	rpcRefused(t, "reflection", err, connect.CodeUnauthenticated)
	if len(d.journal.entries) != 0 {
		t.Error("a request without credentials reached the journal")
	}
}

func rpcRefused(t *testing.T, what string, err error, want connect.Code) {
	t.Helper()
	refused, ok := errors.AsType[*connect.Error](err)
	if !ok || refused.Code() != want {
		t.Errorf("%s: %v, not %v", what, err, want)
		return
	}
	challenge := ""
	if want == connect.CodeUnauthenticated {
		challenge = "Bearer"
	}
	if got := refused.Meta().Get("WWW-Authenticate"); got != challenge {
		t.Errorf("%s: WWW-Authenticate is %q", what, got)
	}
}

// TestHealthNeedsNoCredentials: probes have none.
func TestHealthNeedsNoCredentials(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, someKeys))
	got := d.sendAs(t, http.MethodPost, "/"+grpchealth.HealthV1ServiceName+"/Check", "application/json", "{}", "")
	if body, _ := io.ReadAll(got.Body); got.StatusCode != http.StatusOK || !strings.Contains(string(body), "SERVING") {
		t.Errorf("%s %s", got.Status, body)
	}
}

// TestScopes: each operation wants its own, at whichever door.
func TestScopes(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, someKeys))
	ask := func(key string) map[string]error {
		client := d.client(connect.WithInterceptors(bearer(key)))
		failed := make(map[string]error)
		to := request("")
		to.Pool = "gpu"
		_, failed["submit"] = client.ExecuteDeliberation(t.Context(), to)
		_, failed["status"] = client.GetDeliberationStatus(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "d"})
		_, failed["stats"] = client.GetStatus(t.Context(), &pb.GetStatusRequest{})
		_, failed["jobs"] = client.GetActiveJobs(t.Context(), &pb.GetActiveJobsRequest{})
		_, failed["list"] = client.ListDeliberations(t.Context(), &pb.ListDeliberationsRequest{})
		_, failed["cancel"] = client.CancelDeliberation(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"})
		return failed
	}
	allowed := map[string]string{"writer": "submit", "reader": "status stats jobs list", "canceler": "cancel", "admin": "submit status stats jobs list cancel"}
	for key, operations := range allowed {
		for operation, err := range ask(key) {
			got := connect.CodeOf(err) == connect.CodePermissionDenied
			if want := !strings.Contains(operations, operation); got != want {
				t.Errorf("%s: %s: %v", key, operation, err)
			}
		}
	}
	elsewhere := d.client(connect.WithInterceptors(bearer("writer")))
	_, err := elsewhere.ExecuteDeliberation(t.Context(), request("")) // in the pool default
	rpcRefused(t, "another pool", err, connect.CodePermissionDenied)
}

type bearer string

func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, r)
	}
}

func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// TestACallWithoutACallerIsRefused: a door that forgot to ask lets nobody in.
func TestACallWithoutACallerIsRefused(t *testing.T) {
	t.Parallel()
	f := setup(t, keys(t, someKeys))
	_, err := f.Handle(t.Context(), asEvent(t, "1", request("d")))
	refused(t, err, deliberation.Unauthenticated, "authorization")
	err = f.Watch(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: "d"}, nil)
	refused(t, err, deliberation.Unauthenticated, "authorization")
}

// TestARefusedEventOfABatch: a batch of an admitted caller has a refusal in the
// place of the event that its scopes do not allow.
func TestARefusedEventOfABatch(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, someKeys))
	submission := strings.Replace(oneEvent, "GetStatusRequest", "CancelDeliberationRequest", 1)
	got := d.sendAs(t, http.MethodPost, "/", "application/cloudevents-batch+json", "["+oneEvent+","+submission+"]", "reader")
	body, _ := io.ReadAll(got.Body)
	if got.StatusCode != http.StatusOK || strings.Count(string(body), "permission_denied") != 1 || !strings.Contains(string(body), "GetStatusResponse") {
		t.Errorf("%s %s", got.Status, body)
	}
}

// TestOwners: another tenant's deliberation is as one that does not exist, for every
// operation. admin sees all.
func TestOwners(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, map[string]string{
		"a": "tenant: a, scopes: [submit, read, cancel]", "a2": "tenant: a, scopes: [submit, read, cancel]",
		"b": "tenant: b, scopes: [submit, read, cancel]", "admin": "tenant: ops, scopes: [admin]",
	}))
	as := func(key string) rayexecutorv1connect.RayExecutorServiceClient {
		return d.client(connect.WithInterceptors(bearer(key)))
	}
	if _, err := as("a").ExecuteDeliberation(t.Context(), request("of-a")); err != nil {
		t.Fatal(err)
	}
	d.journal.mu.Lock()
	d.journal.write("from-before", deliberation.KindRequested, "default", &pb.DeliberationRequested{DeliberationId: "from-before", Pool: "default", Request: request("from-before")})
	d.journal.mu.Unlock()
	unknown := func(id string) *pb.GetDeliberationStatusResponse {
		status, err := as("admin").GetDeliberationStatus(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "nobody-has-it"})
		if err != nil {
			t.Fatal(err)
		}
		status.DeliberationId = id
		return status
	}
	for key, want := range map[string]string{"a": "of-a", "a2": "of-a", "b": "", "admin": "from-before of-a"} {
		for _, id := range []string{"of-a", "from-before"} {
			seen := strings.Contains(want, id)
			status, err := as(key).GetDeliberationStatus(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: id})
			if err != nil || (status.GetStatus() == "queued") != seen || !seen && !proto.Equal(status, unknown(id)) {
				t.Errorf("%s, status of %s: %v %v", key, id, status, err)
			}
			if err := watched(t, as(key), id); (err == nil) != seen || !seen && connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("%s, watch of %s: %v", key, id, err)
			}
		}
		list, err := as(key).ListDeliberations(t.Context(), &pb.ListDeliberationsRequest{})
		queued, otherErr := as(key).ListDeliberations(t.Context(), &pb.ListDeliberationsRequest{State: "queued"})
		jobs, lastErr := as(key).GetActiveJobs(t.Context(), &pb.GetActiveJobsRequest{})
		if err := errors.Join(err, otherErr, lastErr); err != nil {
			t.Fatal(err)
		}
		if n := len(strings.Fields(want)); len(list.GetDeliberations()) != n || len(queued.GetDeliberations()) != n || len(jobs.GetJobs()) != n {
			t.Errorf("%s lists %v, %v and %v", key, list, queued, jobs)
		}
	}
	if _, err := as("b").CancelDeliberation(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "of-a"}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("b cancels what is a's: %v", err)
	}
	for key, want := range map[string]connect.Code{"a2": 0, "b": connect.CodeAlreadyExists, "admin": 0} {
		if _, err := as(key).ExecuteDeliberation(t.Context(), request("of-a")); err != nil && connect.CodeOf(err) != want || err == nil && want != 0 {
			t.Errorf("%s repeats a's request: %v", key, err)
		}
	}
	if cancelled, err := as("a2").CancelDeliberation(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "of-a"}); err != nil || cancelled.GetStatus() != "cancelled" {
		t.Errorf("another key of the tenant cannot cancel: %v %v", cancelled, err)
	}
}

// watched is how a watch begins.
func watched(t *testing.T, client rayexecutorv1connect.RayExecutorServiceClient, id string) error {
	t.Helper()
	stream, err := client.WatchDeliberation(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: id})
	if err != nil {
		return err
	}
	defer stream.Close()
	stream.Receive()
	return stream.Err()
}

// TestDerivedIDsAreTheTenants: the same event, or key, of two tenants is two
// deliberations, and of one tenant one.
func TestDerivedIDsAreTheTenants(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, map[string]string{"a": "tenant: a, scopes: [submit]", "b": "tenant: b, scopes: [submit]"}))
	body := `{"task_id":"t","task_description":"d","role":"DEV","agents":[{"id":"a"}]}`
	event := strings.Replace(strings.Replace(oneEvent, "GetStatusRequest", "ExecuteDeliberationRequest", 1), "{}", body, 1)
	for _, key := range []string{"a", "b", "a", "b"} {
		if got := d.sendAs(t, http.MethodPost, "/", "application/cloudevents+json", event, key); got.StatusCode != http.StatusOK {
			t.Errorf("an event of %s: %s", key, got.Status)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/v1/deliberations", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + key}, "Idempotency-Key": {"order-1"}}
		response, err := d.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if response.Body.Close(); response.StatusCode >= http.StatusBadRequest {
			t.Errorf("a key of %s: %s", key, response.Status)
		}
	}
	if len(d.journal.entries) != 4 {
		t.Errorf("%d deliberations, not one an event and one a key of each tenant", len(d.journal.entries))
	}
}

// submitKeyed submits over REST with an Idempotency-Key and extra fields, and
// returns the status and the id of the answer.
func (d *doors) submitKeyed(t *testing.T, key, idempotency, fields string) (status int, id string) {
	t.Helper()
	body := `{"task_id":"t","task_description":"d","role":"DEV","agents":[{"id":"a"}]` + fields + `}`
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/v1/deliberations", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + key}}
	if idempotency != "" {
		r.Header.Set("Idempotency-Key", idempotency)
	}
	response, err := d.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var reply struct {
		ID string `json:"deliberation_id"`
	}
	if err := json.NewDecoder(response.Body).Decode(&reply); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, reply.ID
}

// TestARepeatWithTheAnswersIDIsTheSame: docs/reliability.md promises it for the id in
// its field and as Idempotency-Key.
func TestARepeatWithTheAnswersIDIsTheSame(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, map[string]string{"a": "tenant: a, scopes: [submit]", "b": "tenant: b, scopes: [submit]"}))
	for _, idempotency := range []string{"", "order-1"} {
		status, id := d.submitKeyed(t, "a", idempotency, "")
		if status != http.StatusAccepted {
			t.Fatalf("with the key %q: %d", idempotency, status)
		}
		for name, repeat := range map[string][2]string{
			"in its field": {"", `,"deliberation_id":"` + id + `"`}, "as Idempotency-Key": {id, ""}, "both": {id, `,"deliberation_id":"` + id + `"`},
		} {
			if status, again := d.submitKeyed(t, "a", repeat[0], repeat[1]); status != http.StatusOK || again != id {
				t.Errorf("%s, repeated %s: %d, id %s, not %s", idempotency, name, status, again, id)
			}
		}
		if status, _ := d.submitKeyed(t, "b", id, ""); status != http.StatusAccepted {
			t.Errorf("another tenant's key of the same text: %d", status)
		}
	}
}

// TestNobodyTakesAnIDThatIsDerivedForAnother: else the other's event is refused.
func TestNobodyTakesAnIDThatIsDerivedForAnother(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, map[string]string{"a": "tenant: a, scopes: [submit]", "b": "tenant: b, scopes: [submit]", "admin": "tenant: ops, scopes: [admin]"}))
	for _, id := range []string{
		deliberation.TenantID("a", deliberation.DerivedID("/s", "1")), deliberation.DerivedID("/s", "1"), deliberation.FreshID("a"),
	} {
		if status, _ := d.submitKeyed(t, "b", "", `,"deliberation_id":"`+id+`"`); status != http.StatusBadRequest {
			t.Errorf("%s: %d", id, status)
		}
		if status, _ := d.submitKeyed(t, "admin", "", `,"deliberation_id":"`+id+`"`); status != http.StatusAccepted {
			t.Errorf("%s by an operator: %d", id, status)
		}
	}
}

// TestAWatchEndsWithItsKey: a removed key gets no more events.
func TestAWatchEndsWithItsKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	give := func(entries string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("keys: ["+entries+"]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	digest := sha256.Sum256([]byte("a"))
	give("{tenant: a, sha256: " + hex.EncodeToString(digest[:]) + ", scopes: [submit, read]}")
	check, err := auth.New(auth.Options{Auth: "keys", Keys: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, func(o *functions.Options) { o.Auth = check })
	_, id := d.submitKeyed(t, "a", "", "")
	stream := d.sendAs(t, http.MethodGet, "/v1/deliberations/"+id+"/events", "", "", "a")
	give("")
	if body, err := io.ReadAll(stream.Body); err != nil || !strings.Contains(string(body), "no longer valid") {
		t.Errorf("the stream ended with %v: %s", err, body)
	}
	if got := d.sendAs(t, http.MethodGet, "/v1/deliberations/"+id, "", "", "a"); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("the last key was removed: %s", got.Status)
	}
}

// TestProbesTakeNobodysPlace: calls of the health service without credentials, with
// bodies that do not end, delay no caller.
func TestProbesTakeNobodysPlace(t *testing.T) {
	t.Parallel()
	limits := gate.For(32 << 20)
	d := open(t, keys(t, someKeys), func(o *functions.Options) { o.Limits = limits })
	reading := make(chan struct{}, limits.Requests)
	for range limits.Requests {
		go func() {
			body, end := io.Pipe()
			defer end.Close()
			go func() { // the server reads
				_, _ = end.Write([]byte{0})
				reading <- struct{}{}
			}()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+"/"+grpchealth.HealthV1ServiceName+"/Check", body)
			if err != nil {
				return
			}
			r.Header.Set("Content-Type", "application/grpc")
			if response, err := d.http.Do(r); err == nil {
				response.Body.Close()
			}
		}()
	}
	for range min(limits.Requests, 64) {
		await.Receive(t, "a probe is read", reading)
	}
	if got := d.sendAs(t, http.MethodGet, "/v1/deliberations/none", "", "", "reader"); got.StatusCode != http.StatusNotFound {
		t.Errorf("a caller with a key: %s", got.Status)
	}
}

// TestTheClustersAreTheOperators: tenants see no addresses.
func TestTheClustersAreTheOperators(t *testing.T) {
	t.Parallel()
	d := open(t, keys(t, someKeys), func(o *functions.Options) {
		o.Clusters = fleet(func(context.Context) []*pb.Cluster {
			return []*pb.Cluster{{Name: "east", Address: "http://10.0.0.1", Error: "dial 10.0.0.1"}}
		})
	})
	for key, sees := range map[string]bool{"reader": false, "admin": true} {
		got, err := d.client(connect.WithInterceptors(bearer(key))).GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err != nil || got.GetStatus() != "degraded" || len(got.GetReasons()) != 1 || strings.Contains(got.String(), "10.0.0.1") != sees {
			t.Errorf("%s: %v %v", key, got, err)
		}
	}
}
