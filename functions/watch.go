package functions

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"rayexecutor/auth"
	"rayexecutor/deliberation"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

// watchRequest is the type of Watch's request. Watch is no route: it has no reply
// that an event could carry.
var watchRequest = (&pb.WatchDeliberationRequest{}).ProtoReflect().Descriptor().FullName()

// errDisconnected ends a watch whose caller no longer reads.
var errDisconnected = errors.New("the caller has disconnected")

// errStopping ends a watch when its server stops. Unavailable makes clients resume
// at another instance.
var errStopping = &deliberation.Error{
	Code: deliberation.Unavailable, Field: "request", RetryAfter: time.Second,
	Message: "the server is stopping: watch again from the last sequence on",
}

// Watch sends a deliberation's events after a sequence, in order and as they are
// stored, until the deliberation has ended or the caller disconnects.
//
// The first call of send has nil: the deliberation has not ended at the sequence,
// and doors send their headers then, before the first event. If it has ended, send
// is never called. send is called from one goroutine; its error ends the watch.
//
// Unavailable: NATS is away or the server stops. Watching again from the last
// sequence loses and repeats nothing. LimitReached: too many streams are open.
// NotFound: an unknown id, or another tenant's.
func (f *Functions) Watch(ctx context.Context, request *pb.WatchDeliberationRequest, send func(*pb.WatchDeliberationResponse) error) error {
	return f.counted(ctx, "watch", func() error {
		if err := f.permit(ctx, auth.Read); err != nil {
			return err
		}
		if err := f.rules.Check(request); err != nil {
			return err
		}
		if err := f.checkVisible(ctx, request.GetDeliberationId()); err != nil {
			return about(request.GetDeliberationId(), err)
		}
		end, err := gate.Stream(ctx)
		if err != nil {
			return err
		}
		defer end()
		watching, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		defer f.whileAllowed(ctx, stop)()
		defer context.AfterFunc(f.streams, func() { stop(errStopping) })()
		handle := func(entry deliberation.Entry) error {
			event := watchEvent(entry)
			if event != nil && event.GetEvent() == nil {
				return nil // a kind of event that the API does not have
			}
			err := f.sendCounted(ctx, event, send)
			if _, refused := errors.AsType[*deliberation.Error](err); err != nil && !refused {
				stop(errDisconnected)
			}
			return err
		}
		err = f.journal.Watch(watching, request.GetDeliberationId(), request.GetAfterSequence(), handle)
		switch cause := context.Cause(watching); {
		case err == nil, ctx.Err() != nil, errors.Is(cause, errDisconnected):
			return nil // the metrics count it as ok: nothing failed here
		case errors.Is(cause, errStopping):
			return errStopping
		case errors.Is(cause, auth.ErrRemoved):
			return auth.ErrRemoved
		default:
			return about(request.GetDeliberationId(), err)
		}
	})
}

// recheck is the interval in which a watch looks whether its key is still valid.
const recheck = 5 * time.Second

// whileAllowed stops a watch once its caller's key is removed, or no longer allows it.
func (f *Functions) whileAllowed(ctx context.Context, stop context.CancelCauseFunc) (end func()) {
	caller := auth.From(ctx)
	if caller == nil || !f.auth.Revocable() {
		return func() {}
	}
	ticker, ended := time.NewTicker(recheck), make(chan struct{})
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				now := f.auth.Still(caller)
				if now == nil || now.Tenant != caller.Tenant || now.May(auth.Read) != nil || caller.Admin() && !now.Admin() {
					stop(auth.ErrRemoved)
					return
				}
			case <-ended:
				return
			}
		}
	}()
	return func() { close(ended) }
}

// sendCounted sends an event, whose memory counts until it is written: a watch may
// last for hours and send more than one request may hold.
func (f *Functions) sendCounted(ctx context.Context, event *pb.WatchDeliberationResponse, send func(*pb.WatchDeliberationResponse) error) error {
	ctx, back := gate.Borrow(ctx)
	defer back()
	if err := gate.Take(ctx, proto.Size(event)); err != nil {
		return err
	}
	return send(event)
}

// Drain ends the streams, now and from now on, so that a server can stop. Other
// calls are answered as before. It may be called again.
func (f *Functions) Drain() { f.drain() }

// watchEvent converts an entry; nil for the first one, which has no event. An event
// of a kind that the API does not have is converted to one without a message.
func watchEvent(entry deliberation.Entry) *pb.WatchDeliberationResponse {
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
