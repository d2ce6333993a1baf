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
	// endsAtOnce bounds the ends that are written at the same time.
	endsAtOnce = 16
	// overdueBatch bounds the overdue deliberations of one round: the ledger is
	// locked while they are collected.
	overdueBatch = 10_000
)

// endOverdue ends what no worker has ended by its deadline, on the journal's
// clock. The ledger only proposes, as it may lag behind the journal: each end is
// decided by what the leader holds. Several keepers share the work without
// talking: each has an order of its own, and skips what has ended meanwhile.
func (k *Keeper) endOverdue(ctx context.Context, current *openLedger) error {
	state, err := k.journal.State(ctx)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(endsAtOnce)
	for _, open := range current.overdue(state) {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { return k.endIfOpen(ctx, current, open) })
	}
	return group.Wait()
}

// overdue returns what is overdue at a state of the journal. A deliberation whose
// request the journal has lost, by age or deletion, is forgotten. That waits until
// the ledger has folded everything in the journal, where its end may be.
func (l *openLedger) overdue(state journal.State) []deliberation.Open {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ledger.Sequence() >= state.Last {
		l.ledger.ForgetBefore(state.First)
	}
	return l.ledger.Overdue(state.Now.Add(-grace), overdueBatch)
}

// isOpen reports whether the ledger has seen no end. It costs no read: a keeper
// that shares a backlog skips what another has ended.
func (l *openLedger) isOpen(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ledger.IsOpen(id)
}

// forget drops an open deliberation without an end. The next snapshot has it no
// more; repeating it is safe.
func (l *openLedger) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger.Forget(id)
}

// endIfOpen ends a deliberation unless it has ended meanwhile. An error that
// concerns it alone is logged, so that the others are ended all the same; it is
// tried again in the next round.
func (k *Keeper) endIfOpen(ctx context.Context, current *openLedger, open deliberation.Open) error {
	if !current.isOpen(open.ID) {
		return nil
	}
	err := k.endOne(ctx, current, open)
	if err != nil && (ctx.Err() != nil || deliberation.AsError(err).Code == deliberation.Unavailable) {
		return err
	}
	if err != nil && current.warnings.Due() {
		k.log.Error("an overdue deliberation could not be ended; retrying", "deliberation", open.ID, "error", err)
	}
	return nil
}

// endOne ends a deliberation that the leader holds as requested and not ended. If
// the leader no longer holds the request, the end is unknown: writing one could
// contradict an end that was announced.
func (k *Keeper) endOne(ctx context.Context, current *openLedger, open deliberation.Open) error {
	// Model: KeeperLook.
	history, err := k.journal.ReadLeader(ctx, open.ID)
	if err != nil || history.State.Ended() {
		return err
	}
	if history.Requested == nil {
		current.forget(open.ID)
		return nil
	}
	// A worker may end it between the read and here. The compare-and-set then refuses
	// this end, and won is false.
	// Model: EndOverdue.
	won, err := k.journal.End(ctx, open.ID, atDeadline(open, history), "")
	if won {
		k.log.Info("ended at its deadline", "deliberation", open.ID, "after", open.Timeout)
	}
	return err
}

// atDeadline returns the end of an overdue deliberation: completed if any agent
// has a proposal, else failed with the likely reason.
func atDeadline(open deliberation.Open, history *deliberation.History) proto.Message {
	results, proposed := resultsAtDeadline(open, history)
	if proposed {
		return &pb.DeliberationCompleted{
			DeliberationId: open.ID, TaskId: history.Requested.GetTaskId(), Results: results,
			Usage:  deliberation.UsageOf(results),
			Winner: deliberation.Decide(history.Requested.GetRequest(), results),
		}
	}
	return &pb.DeliberationFailed{
		DeliberationId: open.ID, TaskId: history.Requested.GetTaskId(), Results: results,
		Usage:        deliberation.UsageOf(results),
		ErrorMessage: fmt.Sprintf("timed out after %d s: %s", int(open.Timeout.Seconds()), why(open, history)),
	}
}

// why is the likely reason why no agent had a result.
func why(open deliberation.Open, history *deliberation.History) string {
	if history.Unreadable {
		return "the journal's record of the request cannot be read"
	}
	if history.Attempts == 0 {
		return fmt.Sprintf("no worker took it; does one run for pool %s?", open.Pool)
	}
	return fmt.Sprintf("none of its %d agents had completed", len(history.Requested.GetRequest().GetAgents()))
}

// resultsAtDeadline returns one result for each agent, in the order of the
// request: the recorded one, or a failure.
func resultsAtDeadline(open deliberation.Open, history *deliberation.History) (results []*pb.DeliberationResult, proposed bool) {
	for i, agent := range history.Requested.GetRequest().GetAgents() {
		result := history.Recorded(i)
		if result == nil {
			result = &pb.DeliberationResult{AgentId: agent.GetId(), Metadata: map[string]string{
				"status": "failed", "error_type": string(deliberation.TimedOut),
				"error": fmt.Sprintf("the deliberation timed out after %d s", int(open.Timeout.Seconds())),
			}}
		}
		proposed = proposed || deliberation.Proposed(result)
		results = append(results, result)
	}
	return results, proposed
}
