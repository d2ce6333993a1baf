// What the client commands share: their flags, the connection to a function
// server, and the meaning of its errors.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

// callTimeout bounds one call. A stream has no bound.
const callTimeout = 30 * time.Second

// caller is a client command with --server and --output.
type caller struct {
	*cobra.Command
	program
	server string
	output string
}

func (p program) newCaller(command *cobra.Command) *caller {
	c := &caller{Command: command, program: p}
	c.Flags().StringVar(&c.server, "server", "", serverUsage)
	c.Flags().StringVarP(&c.output, "output", "o", "text", outputUsage)
	c.PreRunE = func(*cobra.Command, []string) error { return checkOutput(c.output) }
	return c
}

// client returns a client of the command's server.
func (c *caller) client() *client { return c.newClient(c.server) }

// show writes a reply by the function text, or as one line of JSON with -o json.
func (c *caller) show(reply proto.Message, text func(io.Writer)) error {
	if c.output == "text" {
		text(c.out)
		return nil
	}
	line, err := events.MarshalJSON(reply)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, string(line))
	return err
}

const outputUsage = "`FORMAT` of the output: text or json"

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usagef("--output=%s: must be text or json", output)
	}
	return nil
}

// client calls a function server by Connect: its errors have a code and details,
// and its streams work over HTTP/1.1 too.
type client struct {
	rayexecutorv1connect.RayExecutorServiceClient
	server string
}

// newClient returns a client of the server that --server, RAY_EXECUTOR_SERVER or
// the running dev names.
func (p program) newClient(flag string) *client {
	return dial(p.serverURL(flag), p.environment("RAY_EXECUTOR_TOKEN"))
}

func dial(server, token string) *client {
	c := &client{server: strings.TrimRight(server, "/")}
	transport := http.DefaultTransport
	if token != "" {
		transport = bearer{token}
	}
	c.RayExecutorServiceClient = rayexecutorv1connect.NewRayExecutorServiceClient(
		&http.Client{Transport: transport}, c.server, connect.WithInterceptors(connect.UnaryInterceptorFunc(c.intercept)))
	return c
}

// bearer adds a token to each request. A redirect to another host gets none:
// RoundTrip adds it only to requests that do not follow a response.
type bearer struct{ token string }

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Response == nil {
		request = request.Clone(request.Context())
		request.Header.Set("Authorization", "Bearer "+b.token)
	}
	return http.DefaultTransport.RoundTrip(request)
}

// intercept bounds each call and explains its error.
func (c *client) intercept(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		response, err := next(ctx, request)
		return response, c.explain(err)
	}
}

// explain returns an error with an exit code and with what to do. The server's
// own errors say what to do themselves, and have a detail.
func (c *client) explain(err error) error {
	remote, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	code, known := rpcExits[remote.Code()]
	if !known {
		code = exitFailed
	}
	for _, detail := range remote.Details() {
		if message, err := detail.Value(); err == nil {
			if _, ok := message.(*pb.Error); ok {
				return &exitError{code, errors.New(remote.Message())}
			}
		}
	}
	switch remote.Code() {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded:
		return &exitError{code, fmt.Errorf("%s does not answer: %s: start the server, or name another one with --server", c.server, remote.Message())}
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return &exitError{code, fmt.Errorf("%s does not allow the call: %s: set RAY_EXECUTOR_TOKEN to a valid token", c.server, remote.Message())}
	default:
		return &exitError{code, fmt.Errorf("%s answers: %s: check that --server names a ray-executor server", c.server, remote.Message())}
	}
}

// rpcExits has the exit code of each RPC code.
var rpcExits = map[connect.Code]int{
	connect.CodeNotFound:           exitNotFound,
	connect.CodeUnauthenticated:    exitDenied,
	connect.CodePermissionDenied:   exitDenied,
	connect.CodeInvalidArgument:    exitRefused,
	connect.CodeAlreadyExists:      exitRefused,
	connect.CodeResourceExhausted:  exitRefused,
	connect.CodeFailedPrecondition: exitRefused,
	connect.CodeUnimplemented:      exitRefused,
	connect.CodeUnavailable:        exitUnavailable,
	connect.CodeDeadlineExceeded:   exitUnavailable,
}
