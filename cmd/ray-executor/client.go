// What the client commands share: the flags that all of them have, the call of
// a function server, and its errors.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
)

// caller is a client command with --server and --output.
type caller struct {
	*cobra.Command
	server string
	output string
	out    io.Writer
}

func (p program) newCaller(command *cobra.Command) *caller {
	c := &caller{Command: command, out: p.out}
	c.Flags().StringVar(&c.server, "server", "", serverUsage)
	c.Flags().StringVarP(&c.output, "output", "o", "text", outputUsage)
	c.PreRunE = func(*cobra.Command, []string) error { return checkOutput(c.output) }
	return c
}

func (c *caller) call(request, reply proto.Message) error {
	return newClient(serverURL(c.server)).call(c.Context(), request, reply)
}

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
		return fmt.Errorf("--output=%s: must be text or json", output)
	}
	return nil
}

// client calls a function server by CloudEvents.
type client struct {
	server string
	http   *http.Client
}

func newClient(server string) *client {
	return &client{server: strings.TrimRight(server, "/") + "/", http: &http.Client{Timeout: 30 * time.Second}}
}

// call sends a request and reads the response into a message.
func (c *client) call(ctx context.Context, request, reply proto.Message) error {
	httpRequest, err := c.request(ctx, request)
	if err != nil {
		return err
	}
	response, err := c.http.Do(httpRequest)
	if err != nil {
		return fmt.Errorf("%w: start the server, or name another one with --server", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refused(response)
	}
	answer, err := binding.ToEvent(ctx, cehttp.NewMessageFromHttpResponse(response))
	if err != nil {
		return fmt.Errorf("%s did not answer with a CloudEvent: name a ray-executor server with --server: %w", c.server, err)
	}
	return events.Decode(answer, reply)
}

func (c *client) request(ctx context.Context, request proto.Message) (*http.Request, error) {
	data, err := proto.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("marshal the request: %w", err)
	}
	e := event.New()
	e.SetID(uuid.NewString())
	e.SetSource("/ray-executor/client")
	e.SetType(events.Type(request))
	e.SetDataContentType(events.Protobuf)
	e.DataEncoded = data
	httpRequest, err := http.NewRequestWithContext(ctx, http.MethodPost, c.server, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	err = cehttp.WriteRequest(ctx, (*binding.EventMessage)(&e), httpRequest)
	return httpRequest, err
}

// refused returns the server's own explanation, which says what to do.
func refused(response *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &problem) == nil && problem.Detail != "" {
		return errors.New(problem.Detail)
	}
	line, _, _ := bytes.Cut(body, []byte("\n"))
	return fmt.Errorf("the server answered %s: %s", response.Status, line)
}
