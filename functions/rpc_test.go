package functions_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

// doors is the functions behind a real server, HTTP/1.1 and h2c.
type doors struct {
	*fixture
	url  string
	http *http.Client
}

func open(tb testing.TB, change ...func(*functions.Options)) *doors {
	tb.Helper()
	f := setup(tb, change...)
	mux := http.NewServeMux()
	f.Mount(mux)
	server := httptest.NewUnstartedServer(mux)
	var protocols, h2c http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	h2c.SetUnencryptedHTTP2(true)
	server.Config.Protocols = &protocols
	server.Start()
	transport := &http.Transport{Protocols: &h2c}
	tb.Cleanup(func() {
		f.Drain()
		transport.CloseIdleConnections()
		server.Close()
	})
	return &doors{fixture: f, url: server.URL, http: &http.Client{Transport: transport}}
}

// protocols are the ways of the generated client.
var protocols = map[string][]connect.ClientOption{
	"connect":      nil,
	"connect-json": {connect.WithProtoJSON()},
	"grpc":         {connect.WithGRPC()},
	"grpc-web":     {connect.WithGRPCWeb()},
}

func (d *doors) client(options ...connect.ClientOption) rayexecutorv1connect.RayExecutorServiceClient {
	return rayexecutorv1connect.NewRayExecutorServiceClient(d.http, d.url, options...)
}

// TestRPCs: all seven, over each protocol.
func TestRPCs(t *testing.T) {
	t.Parallel()
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t)
			client := d.client(options...)
			ctx, call := connect.NewClientContext(t.Context())
			call.RequestHeader().Set("traceparent", trace)
			receipt, err := client.ExecuteDeliberation(ctx, request("d"))
			if err != nil || receipt.GetStatus() != "submitted" || receipt.GetDeliberationId() != "d" || d.journal.traces[0] != trace {
				t.Fatalf("submit: %v %v %v", receipt, err, d.journal.traces)
			}
			for id, want := range map[string]string{"d": "queued", "x": "not_found"} {
				if got, err := client.GetDeliberationStatus(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: id}); err != nil || got.GetStatus() != want {
					t.Errorf("status of %s: %v %v", id, got, err)
				}
			}
			if got, err := client.GetStatus(t.Context(), &pb.GetStatusRequest{}); err != nil || got.GetStats().GetTotalDeliberations() != 1 {
				t.Errorf("stats: %v %v", got, err)
			}
			if got, err := client.GetActiveJobs(t.Context(), &pb.GetActiveJobsRequest{}); err != nil || len(got.GetJobs()) != 1 {
				t.Errorf("jobs: %v %v", got, err)
			}
			if got, err := client.ListDeliberations(t.Context(), &pb.ListDeliberationsRequest{}); err != nil || len(got.GetDeliberations()) != 1 {
				t.Errorf("list: %v %v", got, err)
			}
			if got, err := client.CancelDeliberation(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"}); err != nil || got.GetStatus() != "cancelled" {
				t.Errorf("cancel: %v %v", got, err)
			}
			stream, err := client.WatchDeliberation(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: "d"})
			if err != nil {
				t.Fatal(err)
			}
			var states []string
			for stream.Receive() {
				states = append(states, stream.Msg().GetStatus())
			}
			if stream.Err() != nil || strings.Join(states, " ") != "queued cancelled" || stream.Close() != nil {
				t.Errorf("watch: %v %v", states, stream.Err())
			}
		})
	}
}

// TestRPCErrors: each code has its own, the field and the deliberation are in
// the details, and what repeating helps with says when.
func TestRPCErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err        error
		code       connect.Code
		retryAfter string
	}{
		"invalid":     {deliberation.Invalidf("pool", "is odd"), connect.CodeInvalidArgument, ""},
		"conflict":    {&deliberation.Error{Code: deliberation.Conflict, Field: "deliberation_id", Message: "taken"}, connect.CodeAlreadyExists, ""},
		"too large":   {&deliberation.Error{Code: deliberation.TooLarge, Field: "request", Message: "big"}, connect.CodeResourceExhausted, ""},
		"limit":       {&deliberation.Error{Code: deliberation.LimitReached, Field: "journal", Message: "full", RetryAfter: 30 * time.Second}, connect.CodeResourceExhausted, "30"},
		"unavailable": {away, connect.CodeUnavailable, "2"},
		"unforeseen":  {errors.New("the secret cause"), connect.CodeInternal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t)
			d.journal.set(test.err)
			for protocol, options := range protocols {
				_, err := d.client(options...).ExecuteDeliberation(t.Context(), request("d"))
				refused, ok := errors.AsType[*connect.Error](err)
				if !ok || refused.Code() != test.code || refused.Meta().Get("Retry-After") != test.retryAfter {
					t.Fatalf("%s: %v %v", protocol, err, refused.Meta())
				}
				want := deliberation.AsError(test.err)
				detail := detailOf[*pb.Error](t, refused)
				if detail.GetField() != want.Field || detail.GetDeliberationId() != "d" || detail.GetCode() != string(want.Code) || refused.Message() != want.Error() {
					t.Errorf("%s: %v, %v", protocol, refused, detail)
				}
				if test.code == connect.CodeInternal && refused.Message() != "internal" {
					t.Errorf("%s: an unforeseen error says %q", protocol, refused.Message())
				}
				if test.code == connect.CodeInvalidArgument && detailOf[*errdetails.BadRequest](t, refused).GetFieldViolations()[0].GetField() != "pool" {
					t.Errorf("%s: %v", protocol, refused.Details())
				}
				if test.retryAfter != "" && detailOf[*errdetails.RetryInfo](t, refused).GetRetryDelay().GetSeconds() != int64(want.RetryAfter.Seconds()) {
					t.Errorf("%s: %v", protocol, refused.Details())
				}
			}
		})
	}
}

func detailOf[T proto.Message](t *testing.T, err *connect.Error) (none T) {
	t.Helper()
	for _, detail := range err.Details() {
		value, err := detail.Value()
		if err != nil {
			t.Fatal(err)
		}
		if wanted, ok := value.(T); ok {
			return wanted
		}
	}
	t.Errorf("no such detail in %v", err.Details())
	return none
}

// TestRPCRefuses what is unknown, too large, misspelt or not served here.
func TestRPCRefuses(t *testing.T) {
	t.Parallel()
	d := open(t, func(o *functions.Options) { o.Serve = []string{"submit", "cancel"} })
	client := d.client(connect.WithGRPC())
	ctx := t.Context()
	_, cancel := client.CancelDeliberation(ctx, &pb.CancelDeliberationRequest{DeliberationId: "x"})
	large := request("d")
	large.TaskDescription = strings.Repeat("x", deliberation.MaxRequestBytes)
	_, tooLarge := client.ExecuteDeliberation(ctx, large)
	_, status := client.GetDeliberationStatus(ctx, &pb.GetDeliberationStatusRequest{DeliberationId: "d"})
	watching, err := client.WatchDeliberation(ctx, &pb.WatchDeliberationRequest{DeliberationId: "d"})
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Close()
	watching.Receive()
	for name, got := range map[string]struct {
		err  error
		want connect.Code
	}{
		"cancel":    {cancel, connect.CodeNotFound},
		"too large": {tooLarge, connect.CodeResourceExhausted},
		"status":    {status, connect.CodeUnimplemented},
		"watch":     {watching.Err(), connect.CodeUnimplemented},
	} {
		if connect.CodeOf(got.err) != got.want {
			t.Errorf("%s: %v, want %s", name, got.err, got.want)
		}
	}
	response, err := d.http.Post(d.url+"/ray_executor.v1.RayExecutorService/ExecuteDeliberation", "application/json", strings.NewReader(`{"task": "t"}`))
	if err != nil || response.StatusCode != http.StatusBadRequest {
		t.Errorf("a misspelt field: %v %v", response, err)
	}
	response.Body.Close()
}

// TestHealthFollowsReadiness, and reflection names the services.
func TestHealthFollowsReadiness(t *testing.T) {
	t.Parallel()
	d := open(t)
	check := func(body string) (int, string) {
		response, err := d.http.Post(d.url+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		return response.StatusCode, read(t, response.Body)
	}
	const ours = `{"service": "ray_executor.v1.RayExecutorService"}`
	for _, body := range []string{"{}", ours} {
		if _, got := check(body); !strings.Contains(got, `"SERVING_STATUS_SERVING"`) && !strings.Contains(got, `"SERVING"`) {
			t.Errorf("%s: %s", body, got)
		}
	}
	if status, got := check(`{"service": "another"}`); status != http.StatusNotFound {
		t.Errorf("%d %s", status, got)
	}
	d.journal.set(away)
	if _, got := check(ours); !strings.Contains(got, "NOT_SERVING") {
		t.Errorf("without NATS: %s", got)
	}
	reflection := grpcreflect.NewClient(d.http, d.url).NewStream(t.Context())
	defer reflection.Close()
	services, err := reflection.ListServices()
	if err != nil || !slices.Contains(services, rayexecutorv1connect.RayExecutorServiceName) || !slices.Contains(services, grpchealth.HealthV1ServiceName) {
		t.Errorf("%v %v", services, err)
	}
	if files, err := reflection.FileContainingSymbol(rayexecutorv1connect.RayExecutorServiceName); err != nil || len(files) < 5 {
		t.Errorf("%d files, %v", len(files), err)
	}
}

// TestRPCsAreCounted as every other call.
func TestRPCsAreCounted(t *testing.T) {
	t.Parallel()
	d := open(t)
	client := d.client()
	if _, err := client.GetStatus(t.Context(), &pb.GetStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CancelDeliberation(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "*"}); err == nil {
		t.Error("not an id")
	}
	families, err := d.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "ray_executor_requests_total" {
				counted[metric.GetLabel()[1].GetValue()+" "+metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
			}
		}
	}
	if len(counted) != 2 || counted["stats ok"] != 1 || counted["cancel invalid_argument"] != 1 {
		t.Errorf("got %v", counted)
	}
}

// TestADeadlineIsTold as one, not as something unforeseen.
func TestADeadlineIsTold(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.submit(t, "d")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stream, err := d.client(connect.WithGRPC()).WatchDeliberation(ctx, &pb.WatchDeliberationRequest{DeliberationId: "d"})
	if err == nil { // else the deadline passed before the stream was open
		defer stream.Close()
		for stream.Receive() {
		}
		err = stream.Err()
	}
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("got %v", err)
	}
}
