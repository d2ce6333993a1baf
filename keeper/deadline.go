package keeper

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// endsAtOnce bounds the ends that are under way.
	endsAtOnce = 16
	// endsATime is how many are looked for at a time.
	endsATime = 10_000
)

// endOverdue ends what no worker has ended by its deadline. The fold may lag
// behind: each is decided by what the leader holds. Several keepers share the
// work: each takes it in an order of its own, and passes over what it has heard
// to have ended.
func (k *Keeper) endOverdue(ctx context.Context, kept *book) error {
	look, err := k.journal.State(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(endsAtOnce)
	for _, open := range kept.overdue(look) {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { return k.endIfOpen(ctx, kept, open) })
	}
	return group.Wait()
}

// overdue returns what is overdue by a look at the journal. What the journal
// has lost since is forgotten, once all that it holds is folded in.
func (b *book) overdue(look journal.State) []deliberation.Open {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ledger.Sequence() >= look.Last {
		b.ledger.ForgetBefore(look.First)
	}
	return b.ledger.Overdue(look.Now.Add(-grace), endsATime)
}

func (b *book) isOpen(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ledger.IsOpen(id)
}

func (b *book) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger.Forget(id)
}

// endIfOpen ends one that may have ended meanwhile. One that cannot be ended
// keeps none of the others from it.
func (k *Keeper) endIfOpen(ctx context.Context, kept *book, open deliberation.Open) error {
	if !kept.isOpen(open.ID) {
		return nil
	}
	err := k.endOne(ctx, kept, open)
	if err != nil && (ctx.Err() != nil || deliberation.AsError(err).Code == deliberation.Unavailable) {
		return err
	}
	if err != nil && kept.complaints.Due() {
		k.log.Error("could not be ended at its deadline; trying again", "deliberation", open.ID, "error", err)
	}
	return nil
}

// endOne ends what the leader shows as requested and not ended. What it no
// longer shows may have had any end.
func (k *Keeper) endOne(ctx context.Context, kept *book, open deliberation.Open) error {
	// Model: KeeperLook.
	story, err := k.journal.ReadLeader(ctx, open.ID)
	if err != nil || story.State.Ended() {
		return err
	}
	if story.Requested == nil {
		kept.forget(open.ID)
		return nil
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
func atDeadline(open deliberation.Open, story *deliberation.History) proto.Message {
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

func why(open deliberation.Open, story *deliberation.History) string {
	if story.Unreadable {
		return "the journal's record of the request cannot be read"
	}
	if story.Attempts == 0 {
		return fmt.Sprintf("no worker took it; does one run for pool %s?", open.Pool)
	}
	return fmt.Sprintf("none of its %d agents had completed", len(story.Requested.GetRequest().GetAgents()))
}

// resultsAtDeadline is one result an agent, in the order of the request: what
// is recorded, and a failure for what is not.
func resultsAtDeadline(open deliberation.Open, story *deliberation.History) (results []*pb.DeliberationResult, proposed bool) {
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
