package keeper

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// endOverdue ends what no worker has ended by its deadline. The fold may lag
// behind: each is decided by what the leader holds.
func (k *Keeper) endOverdue(ctx context.Context, kept *book) error {
	now, err := k.journal.Now(ctx)
	if err != nil {
		return err
	}
	kept.mu.Lock()
	overdue := kept.ledger.Overdue(now.Add(-grace))
	kept.mu.Unlock()
	for _, open := range overdue {
		err := k.endOne(ctx, open)
		if err != nil && (ctx.Err() != nil || deliberation.AsError(err).Code == deliberation.Unavailable) {
			return err
		}
		// One that cannot be ended must not keep the others from it.
		if err != nil && kept.complaints.due() {
			k.log.Error("could not be ended at its deadline; trying again", "deliberation", open.ID, "error", err)
		}
	}
	return nil
}

func (k *Keeper) endOne(ctx context.Context, open deliberation.Open) error {
	// Model: KeeperLook.
	story, err := k.journal.LeaderStory(ctx, open.ID)
	if err != nil || story.State.Ended() {
		return err
	}
	// Model: EndOverdue.
	won, err := k.journal.End(ctx, open.ID, atDeadline(open, story), "")
	if won {
		k.log.Info("ended at its deadline", "deliberation", open.ID, "after", open.Timeout)
	}
	return err
}

// atDeadline is the end of an overdue deliberation: completed if an agent was,
// else failed with what is known of why.
func atDeadline(open deliberation.Open, story *deliberation.Deliberation) proto.Message {
	results, proposed := resultsAtDeadline(open, story)
	if proposed {
		return &pb.DeliberationCompleted{
			DeliberationId: open.ID, TaskId: story.Requested.GetTaskId(), Results: results,
		}
	}
	return &pb.DeliberationFailed{
		DeliberationId: open.ID, TaskId: story.Requested.GetTaskId(), Results: results,
		ErrorMessage: fmt.Sprintf("timed out after %d s: %s", int(open.Timeout.Seconds()), why(open, story)),
	}
}

func why(open deliberation.Open, story *deliberation.Deliberation) string {
	switch {
	case story.Requested == nil:
		return "the journal no longer holds the request"
	case story.Attempts == 0:
		return fmt.Sprintf("no worker took it; does one run for pool %s?", open.Pool)
	default:
		return fmt.Sprintf("none of its %d agents had completed", len(story.Requested.GetRequest().GetAgents()))
	}
}

// resultsAtDeadline is one result an agent, in the order of the request: what
// is recorded, and a failure for what is not.
func resultsAtDeadline(open deliberation.Open, story *deliberation.Deliberation) (results []*pb.DeliberationResult, proposed bool) {
	for i, agent := range story.Requested.GetRequest().GetAgents() {
		result := story.Recorded(i)
		if result == nil {
			result = &pb.DeliberationResult{AgentId: agent.GetId(), Metadata: map[string]string{
				"status": "failed", "error_type": "deadline",
				"error": fmt.Sprintf("the deliberation timed out after %d s", int(open.Timeout.Seconds())),
			}}
		}
		proposed = proposed || deliberation.Proposed(result)
		results = append(results, result)
	}
	return results, proposed
}
