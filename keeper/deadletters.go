package keeper

import (
	"context"
	"fmt"

	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

// storeDeadLetters copies each deliberation that ended after too many lost
// workers to the object store of dead letters, where it outlives the journal until
// an operator retries it. It has a consumer of its own, so a full store delays no
// announcement.
func (k *Keeper) storeDeadLetters(ctx context.Context) error {
	return k.journal.Ends(ctx, journal.DeadLetterWriter, k.storeDeadLetter)
}

// storeDeadLetter stores one end if it is a dead letter. Repeating it is safe: an
// existing object is not changed.
func (k *Keeper) storeDeadLetter(ctx context.Context, end journal.Delivery) error {
	failed, ok := end.Event.(*pb.DeliberationFailed)
	if !ok {
		return fmt.Errorf("%s is no failure", events.Type(end.Event))
	}
	if !failed.GetGivenUp() {
		return nil
	}
	history, err := k.journal.Read(ctx, failed.GetDeliberationId())
	if err != nil || history.Requested == nil { // without its request it cannot be retried
		return err
	}
	if err := k.journal.StoreDeadLetter(ctx, history); err != nil {
		return err
	}
	k.log.Error("a deliberation became a dead letter after too many lost workers; see `ray-executor dead list`",
		"deliberation", failed.GetDeliberationId(), "attempts", history.Attempts)
	return nil
}
