// Package client calls a ray-executor from Go: submit a deliberation, follow it,
// wait for its end, cancel it, list what exists.
//
//	c, err := client.New("http://localhost:8080", client.Options{})
//	one, err := c.Submit(ctx, &pb.ExecuteDeliberationRequest{
//		TaskId: "t-1", TaskDescription: "Name three risks of caching", Role: "DEV",
//		Agents: []*pb.Agent{{Id: "a"}, {Id: "b"}},
//	})
//	ended, err := c.Wait(ctx, one.GetDeliberationId())
//
// Requests and replies are the generated messages of rayexecutor/proto. The
// transport is Connect over HTTP.
//
// Every call may be repeated: Submit chooses an id before its first try, so that
// several tries make one deliberation. The client repeats a call while the server
// is unavailable or a limit is reached, and waits as long as the server's
// Retry-After says. A stream that breaks resumes after the last event.
//
// Errors are *Error; its Code says what to do. A context that ends is in the chain
// of the error too.
package client

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

// Options configure New. The zero value is ready to use.
type Options struct {
	// Token returns the bearer token. It is called before each try, so that a token
	// can be renewed. nil, or an empty token: no Authorization header.
	Token func() (string, error)
	// Transport makes the connections, for example with other certificates. nil:
	// http.DefaultTransport.
	Transport http.RoundTripper
	// Timeout bounds a call with its retries, but not Follow, Watch and Wait. 0: one
	// minute.
	Timeout time.Duration
	// Retries is how often a call is repeated. 0: 4; negative: never.
	Retries int
	// Reconnect is how long Follow, Watch and Wait try to reach a server that does
	// not answer. 0: two minutes; negative: they fail at once.
	Reconnect time.Duration
	// MaxResponseBytes bounds a reply, and an event of a stream. 0: 64 MiB.
	MaxResponseBytes int
	// OnRetry is called before each pause, with the error of the last try. It must
	// not block. nil: nothing is called.
	OnRetry func(*Error)
}

const (
	defaultTimeout          = time.Minute
	defaultRetries          = 4
	defaultReconnect        = 2 * time.Minute
	defaultMaxResponseBytes = 64 << 20
)

// Client calls one server. It is safe for concurrent use; many calls share its
// connections.
type Client struct {
	server  string
	options Options
	rpc     rayexecutorv1connect.RayExecutorServiceClient
}

// New returns a client of the server at a URL such as http://localhost:8080. It
// does not connect.
func New(server string, options Options) (*Client, error) {
	parsed, err := url.Parse(server)
	switch {
	case err != nil, parsed.Scheme != "http" && parsed.Scheme != "https", parsed.Host == "":
		return nil, deliberation.Invalidf(serverField, "%q is no URL: write http://host:port or https://host:port", deliberation.Short(server))
	case parsed.User != nil, parsed.RawQuery != "", parsed.Fragment != "":
		return nil, deliberation.Invalidf(serverField, "the URL must have no user, query or fragment: pass a token as Options.Token")
	}
	options.Timeout = cmp.Or(options.Timeout, defaultTimeout)
	options.Retries = cmp.Or(options.Retries, defaultRetries)
	options.Reconnect = cmp.Or(options.Reconnect, defaultReconnect)
	options.MaxResponseBytes = cmp.Or(options.MaxResponseBytes, defaultMaxResponseBytes)
	c := &Client{server: strings.TrimRight(server, "/"), options: options}
	transport := cmp.Or(options.Transport, http.DefaultTransport)
	if options.Token != nil {
		transport = bearer{options.Token, transport}
	}
	// A redirect would turn the call into a GET, or send the token elsewhere.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.rpc = rayexecutorv1connect.NewRayExecutorServiceClient(
		&http.Client{Transport: transport, CheckRedirect: stay}, c.server, connect.WithReadMaxBytes(options.MaxResponseBytes))
	return c, nil
}

// Server returns the server's URL.
func (c *Client) Server() string { return c.server }

// Submit sends a deliberation and returns once it is accepted: it will end exactly
// once. A request without an id gets one; the request itself is not changed.
//
// Conflict: the id belongs to another request. Unavailable and DeadlineExceeded: the
// outcome is unknown; submitting again with the DeliberationID of the error makes
// one deliberation at most.
func (c *Client) Submit(ctx context.Context, request *pb.ExecuteDeliberationRequest) (*pb.ExecuteDeliberationResponse, error) {
	if request.GetDeliberationId() == "" {
		request = proto.CloneOf(request)
		request.DeliberationId = deliberation.NewID()
	}
	return call(ctx, c, request.GetDeliberationId(), c.rpc.ExecuteDeliberation, request)
}

// Status returns a deliberation's state and the results so far. NotFound: the
// journal does not hold the id.
func (c *Client) Status(ctx context.Context, id string) (*pb.GetDeliberationStatusResponse, error) {
	status, err := call(ctx, c, id, c.rpc.GetDeliberationStatus, &pb.GetDeliberationStatusRequest{DeliberationId: id})
	if err == nil && deliberation.State(status.GetStatus()) == deliberation.Unknown {
		return nil, deliberation.NoSuch(id)
	}
	return status, err
}

// Cancel ends a deliberation that has not ended. The status of the reply is its end:
// cancelled, or completed or failed if that came first. NotFound: the journal does
// not hold the id.
func (c *Client) Cancel(ctx context.Context, id, reason string) (*pb.CancelDeliberationResponse, error) {
	return call(ctx, c, id, c.rpc.CancelDeliberation, &pb.CancelDeliberationRequest{DeliberationId: id, Reason: reason})
}

// Page returns one page of the deliberations in the journal, newest first.
func (c *Client) Page(ctx context.Context, request *pb.ListDeliberationsRequest) (*pb.ListDeliberationsResponse, error) {
	return call(ctx, c, "", c.rpc.ListDeliberations, request)
}

// List iterates over all pages, newest first, from the request's page on. It reads a
// page when the one before is used up. An error is the last item.
func (c *Client) List(ctx context.Context, request *pb.ListDeliberationsRequest) iter.Seq2[*pb.DeliberationSummary, error] {
	return func(yield func(*pb.DeliberationSummary, error) bool) {
		next := proto.CloneOf(request)
		for {
			page, err := c.Page(ctx, next)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, one := range page.GetDeliberations() {
				if !yield(one, nil) {
					return
				}
			}
			if next.PageToken = page.GetNextPageToken(); next.GetPageToken() == "" {
				return
			}
		}
	}
}

// Stats returns the health of the service, its statistics and clusters.
func (c *Client) Stats(ctx context.Context) (*pb.GetStatusResponse, error) {
	return call(ctx, c, "", c.rpc.GetStatus, &pb.GetStatusRequest{IncludeStats: true})
}

// bearer adds a token to each request.
type bearer struct {
	token func() (string, error)
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper. Its error does not show the token.
func (b bearer) RoundTrip(request *http.Request) (*http.Response, error) {
	token, err := b.token()
	if err == nil && strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		err = errToken
	}
	if err != nil {
		_ = request.Body.Close() // RoundTrip owns the body
		return nil, &Error{Code: Unauthenticated, Field: tokenField, Message: err.Error(), Cause: err}
	}
	if token != "" {
		request = request.Clone(request.Context())
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return b.next.RoundTrip(request)
}

var errToken = errors.New("a token is printable ASCII without spaces: remove spaces and the end of the line")
