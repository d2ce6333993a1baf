// Package lambda puts the functions on AWS Lambda: it turns what Lambda
// invokes a function with into HTTP requests to the one handler, so that every
// rule and every answer is the same as anywhere else.
//
// Taken are HTTP requests of a Function URL or an API Gateway HTTP API
// (payload format 2.0), batches of an SQS queue, EventBridge events and bare
// CloudEvents. docs/lambda.md says what becomes of each.
package lambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/aws/aws-lambda-go/events"
)

const (
	// patience bounds how long an invocation waits for NATS: waiting is paid.
	patience = 5 * time.Second
	// margin is reserved of an invocation's time, to report to the caller what was
	// wrong: Lambda itself says no more than that time is up.
	margin = 500 * time.Millisecond
)

// Function is what a Host serves.
type Function interface {
	// Handle answers a request on any route, at any time.
	Handle(w http.ResponseWriter, r *http.Request)
	// Wake returns once Handle can do its work, or with why not when ctx ends.
	// idle is how long the process may have been frozen.
	Wake(ctx context.Context, idle time.Duration) error
}

// Host answers invocations. Make it with NewHost; it is safe for concurrent
// use.
type Host struct {
	function Function
	log      *slog.Logger
	last     atomic.Int64 // when an invocation ended last, in Unix nanoseconds
}

// NewHost returns a host of a function.
func NewHost(function Function, log *slog.Logger) *Host {
	host := &Host{function: function, log: log}
	host.rest()
	return host
}

// invocation is any payload that Lambda may invoke with; its fields say which.
type invocation struct {
	events.APIGatewayV2HTTPRequest // a Function URL's is the same

	Records     []events.SQSMessage `json:"Records"`     //nolint:tagliatelle // as AWS spells it
	DetailType  string              `json:"detail-type"` //nolint:tagliatelle // as AWS spells it
	SpecVersion string              `json:"specversion"`
}

var errUnknown = errors.New("this invocation is not one that is taken: send an HTTP request through a Function URL or an API Gateway HTTP API (payload format 2.0), an SQS batch, an EventBridge event, or a CloudEvent in structured JSON")

// Invoke answers one invocation: with an HTTP response, an SQS batch's
// failures, or the event that answers an event.
func (h *Host) Invoke(ctx context.Context, payload json.RawMessage) (any, error) {
	defer h.rest()
	var invoked invocation
	if err := json.Unmarshal(payload, &invoked); err != nil {
		return nil, fmt.Errorf("%w (%w)", errUnknown, err)
	}
	ctx, cancel := inTime(ctx)
	defer cancel()
	switch {
	case invoked.Version == "2.0" && invoked.RequestContext.HTTP.Method != "":
		return h.serve(ctx, &invoked.APIGatewayV2HTTPRequest)
	case len(invoked.Records) > 0 && invoked.Records[0].EventSource == "aws:sqs":
		return h.takeBatch(ctx, invoked.Records), nil
	case invoked.DetailType != "" || invoked.SpecVersion != "":
		return h.takeEvent(ctx, payload)
	default:
		return nil, errUnknown
	}
}

// inTime ends a margin before the invocation's deadline.
func inTime(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(margin, time.Until(deadline)/2)))
}

// wake waits for NATS, but not for long. What still does not work after that
// is reported by the request's own answer.
func (h *Host) wake(ctx context.Context) {
	// The wall's clock: the monotonic one may stop with the process.
	idle := time.Duration(time.Now().UnixNano() - h.last.Load())
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := h.function.Wake(ctx, idle); err != nil {
		h.log.WarnContext(ctx, "NATS cannot be used yet", "error", err, "idle", idle.String())
	}
}

func (h *Host) rest() { h.last.Store(time.Now().UnixNano()) }
