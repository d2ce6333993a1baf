package functions

import (
	"cmp"
	"context"
	"time"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Cancel ends a deliberation that has not ended, and answers with the end in
// force: a completion that was stored first wins. It is safe to repeat; a repeat
// answers with the same end. An unknown id is answered as not_found.
//
// Workers subscribe to cancellations, so the one that runs it stops calling the
// models at once. If it misses the message, it finds the end when it writes its
// own, which the compare-and-set refuses.
//
// Unavailable: the outcome is unknown.
func (f *Functions) Cancel(ctx context.Context, request *pb.CancelDeliberationRequest, origin Origin) (*pb.CancelDeliberationResponse, error) {
	if err := f.rules.Check(request); err != nil {
		return nil, err
	}
	id := request.GetDeliberationId()
	// The leader is read: a replica may not have the end yet, and the answer would
	// contradict one that the caller has seen.
	// Model: CancelLook.
	history, err := f.journal.ReadLeader(ctx, id)
	if err != nil {
		return nil, about(id, err)
	}
	if history, err = f.visible(ctx, history); err != nil {
		return nil, err
	}
	if history.State == deliberation.Queued || history.State == deliberation.Running {
		history, err = f.cancel(ctx, history, request, origin)
		if err != nil {
			return nil, about(id, err)
		}
	}
	return &pb.CancelDeliberationResponse{
		DeliberationId: id, Status: string(history.State), Message: cancelMessage(history.State),
	}, nil
}

// cancel appends the end and returns the history with the end in force. The end
// has the results so far, so that a caller who cancels does not lose what agents
// have proposed.
func (f *Functions) cancel(ctx context.Context, history *deliberation.History, request *pb.CancelDeliberationRequest, origin Origin) (*deliberation.History, error) {
	id := request.GetDeliberationId()
	// Model: Cancel.
	won, err := f.journal.End(ctx, id, &pb.DeliberationCancelled{
		DeliberationId: id, TaskId: history.Requested.GetTaskId(),
		Results: history.Results(), Usage: history.Usage(),
		Reason: cmp.Or(request.GetReason(), "cancelled by the caller"),
	}, origin.TraceParent)
	if err != nil {
		return nil, err
	}
	if won {
		f.logEvent(ctx, "cancelled", id, history.Requested.GetPool(), origin.TraceParent)
		history.State = deliberation.Cancelled
		return history, nil
	}
	history, err = f.journal.ReadLeader(ctx, id)
	if err == nil && !history.State.Ended() {
		// The compare-and-set found an end, and the read did not: between the two the
		// leader has changed, and the new one has not applied its last entries.
		err = &deliberation.Error{
			Code: deliberation.Unavailable, Field: "NATS_URL", RetryAfter: time.Second,
			Message: "NATS has not replicated the end to its new leader yet; repeating is safe",
		}
	}
	return history, err
}

// cancelMessage explains a status to the caller. It does not distinguish a first call from
// a repeat: their answers are equal.
func cancelMessage(state deliberation.State) string {
	switch state {
	case deliberation.Cancelled:
		return "is cancelled"
	case deliberation.Completed, deliberation.Failed:
		return "had ended before it could be cancelled"
	default:
		return "no such deliberation: check the id"
	}
}
