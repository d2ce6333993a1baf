package keeper

import (
	"context"
	"fmt"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

// keepDead sets aside what was given up because too many workers were lost with
// it: the journal forgets it, and it waits for a person. It reads the ends by itself,
// so that a bucket that is full keeps no announcement back.
func (k *Keeper) keepDead(ctx context.Context) error {
	return k.journal.Ends(ctx, journal.DeadLetterWriter, k.setAside)
}

func (k *Keeper) setAside(ctx context.Context, end journal.Delivery) error {
	failed, ok := end.Event.(*pb.DeliberationFailed)
	if !ok {
		return fmt.Errorf("%s is no failure", events.Type(end.Event))
	}
	if !failed.GetGivenUp() {
		return nil
	}
	story, err := k.journal.Read(ctx, failed.GetDeliberationId())
	if err != nil || story.Requested == nil { // forgotten meanwhile: nothing to try again
		return err
	}
	if err := k.journal.StoreDeadLetter(ctx, story); err != nil {
		return err
	}
	k.log.Error("given up: too many workers were lost with it; see `ray-executor dead list`",
		"deliberation", failed.GetDeliberationId(), "attempts", story.Attempts)
	return nil
}

// DeadJournal is what it takes to try again what was given up.
type DeadJournal interface {
	// ListDeadLetters lists it.
	ListDeadLetters(ctx context.Context) ([]journal.DeadLetterSummary, error)
	// ReadDeadLetter reads one; NotFound where it is not kept.
	ReadDeadLetter(ctx context.Context, id string) (journal.DeadLetter, error)
	// DeleteDeadLetter takes out what has been submitted anew.
	DeleteDeadLetter(ctx context.Context, id string) error
}

// RetryDead submits anew a deliberation that was given up, or all where id is
// empty, each under its deliberation.RetryID, and drops what was accepted: one
// that stops in between can be repeated. Each outcome is told.
func RetryDead(ctx context.Context, from DeadJournal, id string,
	submit func(context.Context, *pb.ExecuteDeliberationRequest) error, tell func(id, anew string, refused error),
) error {
	ids := []string{id}
	if id == "" {
		list, err := from.ListDeadLetters(ctx)
		if err != nil {
			return err
		}
		ids = nil
		for _, one := range list {
			ids = append(ids, one.ID)
		}
	}
	for _, one := range ids {
		err := retryOne(ctx, from, one, submit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		tell(one, deliberation.RetryID(one), err)
	}
	return nil
}

func retryOne(ctx context.Context, from DeadJournal, id string, submit func(context.Context, *pb.ExecuteDeliberationRequest) error) error {
	dead, err := from.ReadDeadLetter(ctx, id)
	if err != nil {
		return err
	}
	dead.Request.DeliberationId = deliberation.RetryID(id)
	if err := submit(ctx, dead.Request); err != nil {
		return err
	}
	return from.DeleteDeadLetter(ctx, id)
}
