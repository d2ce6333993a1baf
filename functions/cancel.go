package functions

import (
	"cmp"
	"context"
	"time"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Cancel ends a deliberation that has not ended, and answers with the end that
// stands: a completion that came first wins. Workers hear of it at once and
// stop asking the models. Cancelling twice is fine.
func (f *Functions) Cancel(ctx context.Context, request *pb.CancelDeliberationRequest, origin Origin) (*pb.CancelDeliberationResponse, error) {
	if err := f.rules.Check(request); err != nil {
		return nil, err
	}
	id := request.GetDeliberationId()
	// Model: CancelLook.
	story, err := f.journal.ReadLeader(ctx, id)
	if err != nil {
		return nil, about(id, err)
	}
	if story.State == deliberation.Queued || story.State == deliberation.Running {
		story, err = f.cancel(ctx, story, request, origin)
		if err != nil {
			return nil, about(id, err)
		}
	}
	return &pb.CancelDeliberationResponse{
		DeliberationId: id, Status: string(story.State), Message: cancelMessage(story.State),
	}, nil
}

// cancel appends the end and returns the story with the end that stands.
func (f *Functions) cancel(ctx context.Context, story *deliberation.History, request *pb.CancelDeliberationRequest, origin Origin) (*deliberation.History, error) {
	id := request.GetDeliberationId()
	// Model: Cancel.
	won, err := f.journal.End(ctx, id, &pb.DeliberationCancelled{
		DeliberationId: id, TaskId: story.Requested.GetTaskId(),
		Results: story.Results(), Usage: story.Usage(),
		Reason: cmp.Or(request.GetReason(), "cancelled by the caller"),
	}, origin.TraceParent)
	if err != nil {
		return nil, err
	}
	if won {
		story.State = deliberation.Cancelled
		return story, nil
	}
	story, err = f.journal.ReadLeader(ctx, id)
	if err == nil && !story.State.Ended() {
		// Servers that find together again may tell an older story.
		err = &deliberation.Error{
			Code: deliberation.Unavailable, Field: "NATS_URL", RetryAfter: time.Second,
			Message: "NATS does not tell yet which end stands; repeating is safe",
		}
	}
	return story, err
}

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
