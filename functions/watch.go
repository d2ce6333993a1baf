package functions

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"rayexecutor/deliberation"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

var watchRequest = (&pb.WatchDeliberationRequest{}).ProtoReflect().Descriptor().FullName()

var errGone = errors.New("whoever watched has gone")

var errStopping = &deliberation.Error{
	Code: deliberation.Unavailable, Field: "request", RetryAfter: time.Second,
	Message: "the server stops: watch again from the last sequence on",
}

// Watch sends a deliberation's events after a sequence, as they come, until it
// has ended or whoever watches has gone. The first call of send, with nil, says
// that there is something to wait for: doors answer then, before the first
// event. What ended before the sequence is told by sending nothing; an unknown
// id is NotFound. After an Unavailable, watching goes on with the last sequence
// that was seen.
func (f *Functions) Watch(ctx context.Context, request *pb.WatchDeliberationRequest, send func(*pb.WatchDeliberationResponse) error) error {
	return f.counted(ctx, "watch", func() error {
		if err := f.rules.Check(request); err != nil {
			return err
		}
		end, err := gate.Stream(ctx)
		if err != nil {
			return err
		}
		defer end()
		watching, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		defer context.AfterFunc(f.streams, func() { stop(errStopping) })()
		tell := func(entry deliberation.Entry) error {
			event := told(entry)
			if event != nil && event.GetEvent() == nil {
				return nil // not one that watchers know
			}
			err := f.sendCounted(ctx, event, send)
			if _, refused := errors.AsType[*deliberation.Error](err); err != nil && !refused {
				stop(errGone)
			}
			return err
		}
		err = f.journal.Watch(watching, request.GetDeliberationId(), request.GetAfterSequence(), tell)
		switch cause := context.Cause(watching); {
		case err == nil, ctx.Err() != nil, errors.Is(cause, errGone):
			return nil
		case errors.Is(cause, errStopping):
			return errStopping
		default:
			return about(request.GetDeliberationId(), err)
		}
	})
}

// sendCounted sends an event, whose memory counts until its reader has it.
func (f *Functions) sendCounted(ctx context.Context, event *pb.WatchDeliberationResponse, send func(*pb.WatchDeliberationResponse) error) error {
	ctx, back := gate.Borrow(ctx)
	defer back()
	if err := gate.Take(ctx, proto.Size(event)); err != nil {
		return err
	}
	return send(event)
}

// Drain ends the streams, so that a server can stop; what is asked once is
// still answered.
func (f *Functions) Drain() { f.drain() }

// told is an entry as watchers hear it; nil for the one without an event.
func told(entry deliberation.Entry) *pb.WatchDeliberationResponse {
	if entry.Event == nil {
		return nil
	}
	response := &pb.WatchDeliberationResponse{
		Sequence: entry.Sequence, Time: timestamppb.New(entry.Time), Status: string(stateAfter(entry.Event)),
	}
	switch event := entry.Event.(type) {
	case *pb.DeliberationRequested:
		response.Event = &pb.WatchDeliberationResponse_Requested{Requested: event}
	case *pb.DeliberationStarted:
		response.Event = &pb.WatchDeliberationResponse_Started{Started: event}
	case *pb.AgentCompleted:
		response.Event = &pb.WatchDeliberationResponse_Agent{Agent: event}
	case *pb.DeliberationCompleted:
		response.Event = &pb.WatchDeliberationResponse_Completed{Completed: event}
	case *pb.DeliberationFailed:
		response.Event = &pb.WatchDeliberationResponse_Failed{Failed: event}
	case *pb.DeliberationCancelled:
		response.Event = &pb.WatchDeliberationResponse_Cancelled{Cancelled: event}
	}
	return response
}

// stateAfter returns the state that an event leads to. It needs no other event:
// a watch that resumes has not read the earlier ones.
func stateAfter(event proto.Message) deliberation.State {
	if end := deliberation.EndState(event); end.Ended() {
		return end
	}
	if _, ok := event.(*pb.DeliberationRequested); ok {
		return deliberation.Queued
	}
	return deliberation.Running
}
