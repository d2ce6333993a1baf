package keeper_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper/keepertest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// giveUp ends a deliberation as the worker does that has died each time: after
// five starts, with a cut-off for what it has not asked.
func (w world) giveUp(t *testing.T, id string) {
	t.Helper()
	w.Submit(t, id, 2, 300)
	var last uint64
	for attempt := range int32(5) {
		var err error
		if last, _, err = w.worker.Started(t.Context(), id, attempt+1, time.Time{}, last); err != nil {
			t.Fatal(err)
		}
	}
	w.fail(t, &pb.DeliberationFailed{
		DeliberationId: id, TaskId: "task-" + id, ErrorMessage: "given up after 5 attempts", GivenUp: true,
		Results: []*pb.DeliberationResult{journaltest.Result(0, ""), journaltest.Result(1, "")},
	})
}

func (w world) fail(t *testing.T, failed *pb.DeliberationFailed) {
	t.Helper()
	id := failed.GetDeliberationId()
	won, err := w.End(t.Context(), id, failed, "")
	if err != nil || !won {
		t.Fatalf("end %s: %v, %v", id, won, err)
	}
}

func (w world) dead(t *testing.T, want int) []journal.DeadLetterSummary {
	t.Helper()
	var list []journal.DeadLetterSummary
	again(t, func() (err error) {
		if list, err = w.ListDeadLetters(t.Context()); err == nil && len(list) != want {
			err = errors.New("the list is not as long as it should be")
		}
		return err
	})
	return list
}

func TestDeadLettersAreStored(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for range 2 {
		w.keep(t, keepertest.Quiet())
	}
	heard := w.Subscribe(t, announcements)
	w.giveUp(t, "d1")
	w.Submit(t, "other", 1, 300)
	w.fail(t, &pb.DeliberationFailed{DeliberationId: "other", ErrorMessage: "the model refused"})
	w.giveUp(t, "d2")
	w.Submit(t, "unread", 1, 300) // no worker lived to start it, so it has no result
	w.fail(t, &pb.DeliberationFailed{DeliberationId: "unread", ErrorMessage: "given up after 50 deliveries", GivenUp: true})
	for range 4 {
		keepertest.Next(t, heard) // each end is announced all the same
	}
	stored := map[string]string{}
	for _, one := range w.dead(t, 3) {
		stored[one.ID] = fmt.Sprint(one.Reason, ", ", one.Attempts)
	}
	want := map[string]string{
		"d1": "given up after 5 attempts, 5", "d2": "given up after 5 attempts, 5", "unread": "given up after 50 deliveries, 0",
	}
	if !maps.Equal(stored, want) {
		t.Errorf("stored is %v", stored)
	}

	// It outlives the journal.
	if err := w.JS.DeleteStream(t.Context(), journal.Stream); err != nil {
		t.Fatal(err)
	}
	dead, err := w.ReadDeadLetter(t.Context(), "d1")
	if err != nil || len(dead.Status.GetResults()) != 2 || dead.Request.GetTaskDescription() != "Decide." {
		t.Errorf("read is %v, %v", dead, err)
	}
}
