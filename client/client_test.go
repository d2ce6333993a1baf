package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"rayexecutor/client"
	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

// service is a server whose replies a test sets.
type service struct {
	rayexecutorv1connect.UnimplementedRayExecutorServiceHandler
	submit func(*pb.ExecuteDeliberationRequest) (*pb.ExecuteDeliberationResponse, error)
	status func() (*pb.GetDeliberationStatusResponse, error)
	page   func(*pb.ListDeliberationsRequest) *pb.ListDeliberationsResponse
	watch  func(context.Context, *pb.WatchDeliberationRequest, *connect.ServerStream[pb.WatchDeliberationResponse]) error
}

func (s *service) ExecuteDeliberation(_ context.Context, request *pb.ExecuteDeliberationRequest) (*pb.ExecuteDeliberationResponse, error) {
	return s.submit(request)
}

func (s *service) GetDeliberationStatus(context.Context, *pb.GetDeliberationStatusRequest) (*pb.GetDeliberationStatusResponse, error) {
	return s.status()
}

func (s *service) ListDeliberations(_ context.Context, request *pb.ListDeliberationsRequest) (*pb.ListDeliberationsResponse, error) {
	return s.page(request), nil
}

func (s *service) WatchDeliberation(ctx context.Context, request *pb.WatchDeliberationRequest, stream *connect.ServerStream[pb.WatchDeliberationResponse]) error {
	if s.watch == nil {
		return s.UnimplementedRayExecutorServiceHandler.WatchDeliberation(ctx, request, stream)
	}
	return s.watch(ctx, request, stream)
}

// busy is an error of a server that asks to come back after some seconds.
func busy(code connect.Code, seconds int) error {
	err := connect.NewError(code, errors.New("busy"))
	err.Meta().Set("Retry-After", strconv.Itoa(seconds))
	return err
}

// TestSubmitRepeats sends one id in each try, and waits as long as the server says.
func TestSubmitRepeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ids []string
		var waited []time.Duration
		last := time.Now()
		s := &service{submit: func(request *pb.ExecuteDeliberationRequest) (*pb.ExecuteDeliberationResponse, error) {
			ids = append(ids, request.GetDeliberationId())
			waited = append(waited, time.Since(last))
			last = time.Now()
			switch len(ids) {
			case 1:
				return nil, busy(connect.CodeResourceExhausted, 3)
			case 2:
				return nil, connect.NewError(connect.CodeUnavailable, errors.New("starting"))
			default:
				return &pb.ExecuteDeliberationResponse{DeliberationId: request.GetDeliberationId()}, nil
			}
		}}
		request := &pb.ExecuteDeliberationRequest{TaskId: "t"}
		receipt, err := dial(t, s, client.Options{}).Submit(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if !deliberation.ValidID(ids[0]) || len(ids) != 3 || ids[1] != ids[0] || ids[2] != ids[0] || receipt.GetDeliberationId() != ids[0] {
			t.Errorf("it sent %q", ids)
		}
		if waited[1] < 3*time.Second || waited[1] > 3200*time.Millisecond || waited[2] < 100*time.Millisecond || waited[2] > 300*time.Millisecond {
			t.Errorf("it waited %v", waited)
		}
		if request.GetDeliberationId() != "" {
			t.Error("it changed the caller's request")
		}
	})
}

// TestACallGivesUp ends after the retries, or at once if the server asks for a
// longer pause than the caller has.
func TestACallGivesUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options client.Options
		within  time.Duration
		fails   error
		tries   int
		code    client.Code
		longest time.Duration
	}{
		"retries":     {fails: busy(connect.CodeUnavailable, 1), tries: 5, code: client.Unavailable, longest: 5 * time.Second},
		"no retries":  {options: client.Options{Retries: -1}, fails: busy(connect.CodeUnavailable, 1), tries: 1, code: client.Unavailable},
		"timeout":     {options: client.Options{Timeout: 2500 * time.Millisecond}, fails: busy(connect.CodeUnavailable, 1), tries: 3, code: client.Unavailable, longest: 2500 * time.Millisecond},
		"far away":    {within: time.Minute, fails: busy(connect.CodeResourceExhausted, 3600), tries: 1, code: client.LimitReached},
		"final":       {fails: connect.NewError(connect.CodeInvalidArgument, errors.New("no")), tries: 1, code: client.Invalid},
		"conflict":    {fails: connect.NewError(connect.CodeAlreadyExists, errors.New("no")), tries: 1, code: client.Conflict},
		"too large":   {fails: connect.NewError(connect.CodeResourceExhausted, errors.New("no")), tries: 1, code: client.TooLarge},
		"not allowed": {fails: connect.NewError(connect.CodePermissionDenied, errors.New("no")), tries: 1, code: client.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, began, tries := t.Context(), time.Now(), 0
				if test.within != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.within)
					defer cancel()
				}
				s := &service{submit: func(*pb.ExecuteDeliberationRequest) (*pb.ExecuteDeliberationResponse, error) {
					tries++
					return nil, test.fails
				}}
				retried := 0
				test.options.OnRetry = func(*client.Error) { retried++ }
				_, err := dial(t, s, test.options).Submit(ctx, &pb.ExecuteDeliberationRequest{DeliberationId: "d"})
				failed, ok := errors.AsType[*client.Error](err)
				if !ok || failed.Code != test.code || failed.DeliberationID != "d" || tries != test.tries || retried != tries-1 || time.Since(began) > test.longest {
					t.Errorf("after %d tries (%d reported) and %v it failed with %#v", tries, retried, time.Since(began), err)
				}
			})
		})
	}
}

// TestADeadServer bounds each try, so that a silent connection does not use up the
// call.
func TestADeadServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var tries atomic.Int32
		silent := inProcess{http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			tries.Add(1)
			<-r.Context().Done()
		})}
		_, err := newClient(t, client.Options{Transport: silent, Timeout: 45 * time.Second}).Stats(t.Context())
		if client.CodeOf(err) != client.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) || tries.Load() != 3 || time.Since(began) != 45*time.Second {
			t.Errorf("after %d tries and %v it failed with %v", tries.Load(), time.Since(began), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := newClient(t, client.Options{Transport: silent}).Stats(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after a cancellation it failed with %v", err)
		}
	})
}

// TestOtherServers names what answers in place of a ray-executor.
func TestOtherServers(t *testing.T) {
	t.Parallel()
	page := func(status int, header, value, body string) http.RoundTripper {
		return inProcess{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(header, value)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		})}
	}
	for name, test := range map[string]struct {
		transport http.RoundTripper
		code      client.Code
		says      string
	}{
		"nothing":      {away{}, client.Unavailable, "http://ray-executor.example does not answer: "},
		"web page":     {page(200, "Content-Type", "text/html", "<html>"), client.Internal, "no answer of a ray-executor"},
		"no such page": {page(404, "Content-Type", "text/html", "<html>"), client.Unimplemented, "no answer of a ray-executor"},
		"redirect":     {page(307, "Location", "http://elsewhere.example/", ""), client.Internal, "no answer of a ray-executor"},
		"login":        {page(401, "Content-Type", "text/html", ""), client.Unauthenticated, "does not allow"},
		"forbidden":    {page(403, "Content-Type", "text/html", ""), client.PermissionDenied, "does not allow"},
		"gateway":      {page(502, "Content-Type", "text/html", ""), client.Unavailable, "does not answer"},
		"large":        {page(200, "Content-Type", "application/proto", strings.Repeat("\n\x00", 5000)), client.TooLarge, "larger than 9999 bytes"},
		"garbled":      {page(200, "Content-Type", "application/proto", "\xff"), client.Internal, "no answer of a ray-executor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				_, err := newClient(t, client.Options{Transport: test.transport, Retries: -1, MaxResponseBytes: 9999}).Stats(t.Context())
				failed, ok := errors.AsType[*client.Error](err)
				if !ok || failed.Code != test.code || failed.Field != "server" || !strings.Contains(failed.Message, test.says) {
					t.Errorf("it failed with %#v", err)
				}
			})
		})
	}
}

// TestErrorsOfTheService carry its code, field and id.
func TestErrorsOfTheService(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused := connect.NewError(connect.CodeInvalidArgument, errors.New("role: is empty: name one"))
		detail, err := connect.NewErrorDetail(&pb.Error{Code: "invalid_argument", Message: "role: is empty: name one", Field: "role", DeliberationId: "d"})
		if err != nil {
			t.Fatal(err)
		}
		refused.AddDetail(detail)
		s := &service{status: func() (*pb.GetDeliberationStatusResponse, error) { return nil, refused }}
		c := dial(t, s, client.Options{})
		_, err = c.Status(t.Context(), "d")
		failed, ok := errors.AsType[*client.Error](err)
		if !ok || failed.Code != client.Invalid || failed.Field != "role" || failed.Message != "is empty: name one" || failed.DeliberationID != "d" {
			t.Errorf("%#v", err)
		}
		s.status = func() (*pb.GetDeliberationStatusResponse, error) {
			return &pb.GetDeliberationStatusResponse{Status: "not_found"}, nil
		}
		if _, err := c.Status(t.Context(), "d"); client.CodeOf(err) != client.NotFound {
			t.Errorf("an unknown id: %v", err)
		}
	})
}

// TestTokens reads the token before each try, and sends no malformed one.
func TestTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent []string
		limited := inProcess{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sent = append(sent, r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusServiceUnavailable)
		})}
		tokens := 0
		renewed := func() (string, error) {
			tokens++
			return "t" + strconv.Itoa(tokens), nil
		}
		if _, err := newClient(t, client.Options{Transport: limited, Token: renewed, Retries: 1}).Stats(t.Context()); client.CodeOf(err) != client.Unavailable {
			t.Error(err)
		}
		if !slices.Equal(sent, []string{"Bearer t1", "Bearer t2"}) {
			t.Errorf("it sent %q", sent)
		}
		secret := func() (string, error) { return "secret\n", nil }
		_, err := newClient(t, client.Options{Transport: limited, Token: secret}).Stats(t.Context())
		if client.CodeOf(err) != client.Unauthenticated || strings.Contains(err.Error(), "secret") || len(sent) != 2 {
			t.Errorf("%v, sent %q", err, sent)
		}
	})
}

// TestList reads a page when the one before is used up.
func TestList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tokens []string
		s := &service{page: func(request *pb.ListDeliberationsRequest) *pb.ListDeliberationsResponse {
			tokens = append(tokens, request.GetPageToken())
			one := []*pb.DeliberationSummary{{DeliberationId: "d" + request.GetPageToken(), Status: request.GetState()}}
			if len(tokens) == 3 {
				return &pb.ListDeliberationsResponse{Deliberations: one}
			}
			return &pb.ListDeliberationsResponse{Deliberations: one, NextPageToken: strconv.Itoa(len(tokens))}
		}}
		var ids []string
		for one, err := range dial(t, s, client.Options{}).List(t.Context(), &pb.ListDeliberationsRequest{State: "failed"}) {
			if err != nil || one.GetStatus() != "failed" {
				t.Fatal(one, err)
			}
			ids = append(ids, one.GetDeliberationId())
		}
		if !slices.Equal(ids, []string{"d", "d1", "d2"}) || !slices.Equal(tokens, []string{"", "1", "2"}) {
			t.Errorf("it listed %q by %q", ids, tokens)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "localhost:8080", "ftp://host", "http://", "http://user@host", "http://host/?a=b", "http://host/#a", "http://[::1"} {
		if _, err := client.New(url, client.Options{}); client.CodeOf(err) != client.Invalid {
			t.Errorf("%q: %v", url, err)
		}
	}
}
