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
	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
)

// client calls a function server by CloudEvents.
type client struct {
	server string
	http   *http.Client
}

func newClient(server string) *client {
	return &client{server: strings.TrimRight(server, "/") + "/", http: &http.Client{Timeout: 30 * time.Second}}
}

// call sends a request and reads the reply into a message.
func (c *client) call(ctx context.Context, request, reply proto.Message) error {
	httpRequest, err := c.request(ctx, request)
	if err != nil {
		return err
	}
	response, err := c.http.Do(httpRequest)
	if err != nil {
		return fmt.Errorf("%w; is the server up? --server names it", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return refused(response)
	}
	answer, err := binding.ToEvent(ctx, cehttp.NewMessageFromHttpResponse(response))
	if err != nil {
		return fmt.Errorf("%s did not answer with an event: %w", c.server, err)
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

// refused tells the server's own words.
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
