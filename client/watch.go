package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cenkalti/backoff/v5"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// quiet is how long a stream may have no event before it is opened again: a
	// server that vanished sends nothing either.
	quiet = time.Minute
	// lived is how long a stream must last to show that the server can be reached.
	lived = 5 * time.Second
)

// Wait returns the status of a deliberation at its end: completed, failed or
// cancelled. It waits until ctx ends, over restarts of the server.
func (c *Client) Wait(ctx context.Context, id string) (*pb.GetDeliberationStatusResponse, error) {
	return c.Follow(ctx, id, func(*pb.WatchDeliberationResponse) {})
}

// Follow is Wait, and calls show for each event.
func (c *Client) Follow(ctx context.Context, id string, show func(*pb.WatchDeliberationResponse)) (*pb.GetDeliberationStatusResponse, error) {
	pauses, down := newPauses(), outage{client: c, pauses: newPauses()}
	for after := uint64(0); ; {
		for event, err := range c.Watch(ctx, id, after) {
			if err != nil && CodeOf(err) != Unimplemented { // AWS Lambda has no streams: the status shows the end
				return nil, err
			}
			if err == nil {
				after = event.GetSequence()
				show(event)
			}
		}
		status, err := c.Status(ctx, id)
		if failed, ok := errors.AsType[*Error](err); ok {
			if failed = down.again(ctx, failed); failed != nil {
				return nil, failed
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		down.reached()
		if deliberation.State(status.GetStatus()).Ended() {
			return status, nil
		}
		open := &Error{Code: DeadlineExceeded, DeliberationID: id, Message: fmt.Sprintf("%s has not ended: it is %s", id, status.GetStatus())}
		if failed := sleep(ctx, pauses.NextBackOff(), open); failed != nil {
			return nil, failed
		}
	}
}

// Watch iterates over a deliberation's events after a sequence, 0 for all, until
// its end. A stream that breaks resumes after the last event, so no event is lost
// or comes twice. An error is the last item.
func (c *Client) Watch(ctx context.Context, id string, after uint64) iter.Seq2[*pb.WatchDeliberationResponse, error] {
	return func(yield func(*pb.WatchDeliberationResponse, error) bool) {
		w := watch{
			outage:  outage{client: c, pauses: newPauses()},
			request: &pb.WatchDeliberationRequest{DeliberationId: id, AfterSequence: after}, yield: yield,
		}
		for !w.over {
			failed := w.stream(ctx)
			if failed != nil {
				failed = w.again(ctx, failed)
			}
			if failed != nil {
				yield(nil, failed)
				return
			}
		}
	}
}

// watch is the state of one Watch over its streams.
type watch struct {
	outage

	request *pb.WatchDeliberationRequest // AfterSequence is that of the last event
	yield   func(*pb.WatchDeliberationResponse, error) bool
	over    bool // the deliberation has ended, or the caller reads no further
}

// stream yields the events of one stream. It returns nil if the watch is over, or
// if the stream was quiet and another one must be opened.
func (w *watch) stream(parent context.Context) *Error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	silence := time.AfterFunc(maxTry, cancel)
	defer silence.Stop()
	stream, err := w.client.rpc.WatchDeliberation(ctx, w.request)
	if err != nil {
		return w.client.convert(parent, w.request.GetDeliberationId(), err)
	}
	defer func() { _ = stream.Close() }()                     // it has ended, or is abandoned
	open := stream.ResponseHeader().Get("Content-Type") != "" // waits for the response
	opened := time.Now()
	silence.Reset(quiet)
	for stream.Receive() {
		silence.Stop() // the caller may take its time
		w.reached()
		w.request.AfterSequence = stream.Msg().GetSequence()
		if w.over = !w.yield(stream.Msg(), nil); w.over {
			return nil
		}
		silence.Reset(quiet)
	}
	if open && time.Since(opened) > lived {
		w.reached()
	}
	err = stream.Err()
	if err == nil {
		w.over = true
		return nil
	}
	if open && ctx.Err() != nil && parent.Err() == nil {
		return nil
	}
	failed := w.client.convert(parent, w.request.GetDeliberationId(), err)
	if open && failed.Code == Internal && failed.Field == serverField {
		failed.Code = Unavailable // the server had answered: the connection broke
	}
	return failed
}

// outage is how long a server has not answered, for Options.Reconnect.
type outage struct {
	client *Client
	pauses *backoff.ExponentialBackOff
	since  time.Time // zero while the server answers
}

// reached notes that the server answers.
func (o *outage) reached() {
	o.since = time.Time{}
	o.pauses.Reset()
}

// again waits before the next try, or returns the error that ends the wait.
func (o *outage) again(ctx context.Context, failed *Error) *Error {
	if !repeatable(failed) || ctx.Err() != nil {
		return failed
	}
	if o.since.IsZero() {
		o.since = time.Now()
	}
	if max(time.Since(o.since), failed.RetryAfter) > o.client.options.Reconnect {
		return failed
	}
	return o.client.pause(ctx, o.pauses, failed)
}
