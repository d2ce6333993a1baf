package keeper_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	pb "rayexecutor/proto/ray_executor/v1"
)

// giveUp ends a deliberation as the worker does that has died each time: after
// five starts, with a cut-off for what it has not asked.
func (w world) giveUp(t *testing.T, id string) {
	t.Helper()
	w.submit(t, id, 2, 300)
	var last uint64
	for attempt := range int32(5) {
		var err error
		if last, _, err = w.worker.Started(t.Context(), id, attempt+1, time.Time{}, last); err != nil {
			t.Fatal(err)
		}
	}
	cutOff := journaltest.Result(1, "")
	cutOff.Metadata["error_type"] = "attempts"
	w.fail(t, id, "given up after 5 attempts", journaltest.Result(0, ""), cutOff)
}

func (w world) fail(t *testing.T, id, why string, results ...*pb.DeliberationResult) {
	t.Helper()
	won, err := w.End(t.Context(), id, &pb.DeliberationFailed{
		DeliberationId: id, TaskId: "task-" + id, ErrorMessage: why, Results: results,
	}, "")
	if err != nil || !won {
		t.Fatalf("end %s: %v, %v", id, won, err)
	}
}

func (w world) dead(t *testing.T, want int) []journal.DeadSummary {
	t.Helper()
	var list []journal.DeadSummary
	again(t, func() (err error) {
		if list, err = w.ListDead(t.Context()); err == nil && len(list) != want {
			err = errors.New("the list is not as long as it should be")
		}
		return err
	})
	return list
}

func TestWhatIsGivenUpIsKept(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for range 2 {
		w.keep(t, quiet())
	}
	heard := w.hear(t)
	w.giveUp(t, "d1")
	w.submit(t, "other", 1, 300)
	w.fail(t, "other", "the model refused", journaltest.Result(0, ""))
	w.giveUp(t, "d2")
	for range 3 {
		next(t, heard) // each end is announced all the same
	}
	list := w.dead(t, 2)
	for _, one := range list {
		if one.ID == "other" || one.Attempts != 5 || one.Reason != "given up after 5 attempts" {
			t.Errorf("kept is %+v", one)
		}
	}

	// It outlives the journal.
	if err := w.js.DeleteStream(t.Context(), journal.Stream); err != nil {
		t.Fatal(err)
	}
	dead, err := w.ReadDead(t.Context(), "d1")
	if err != nil || len(dead.Status.GetResults()) != 2 || dead.Request.GetTaskDescription() != "Decide." {
		t.Errorf("read is %v, %v", dead, err)
	}
}

func TestRetryOfWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.keep(t, quiet())
	for _, id := range []string{"d1", "d2", "d3"} {
		w.giveUp(t, id)
	}
	w.dead(t, 3)
	var submitted []*pb.ExecuteDeliberationRequest
	submit := func(_ context.Context, request *pb.ExecuteDeliberationRequest) error {
		if request.GetDeliberationId() == "d2-retry" {
			return errors.New("the server is away")
		}
		submitted = append(submitted, request)
		return nil
	}
	told := map[string]error{}
	tell := func(id, anew string, refused error) {
		if anew != id+"-retry" {
			t.Errorf("%s is submitted as %s", id, anew)
		}
		told[id] = refused
	}
	for _, id := range []string{"d1", "", "nobody"} {
		if err := keeper.RetryDead(t.Context(), w, id, submit, tell); err != nil {
			t.Fatal(err)
		}
	}
	if len(submitted) != 2 || submitted[0].GetDeliberationId() != "d1-retry" || submitted[0].GetTaskDescription() != "Decide." {
		t.Errorf("submitted are %v", submitted)
	}
	if told["d1"] != nil || told["d3"] != nil || told["d2"] == nil || deliberation.AsError(told["nobody"]).Code != deliberation.NotFound {
		t.Errorf("told is %v", told)
	}
	if list := w.dead(t, 1); list[0].ID != "d2" {
		t.Errorf("left is %v", list)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := keeper.RetryDead(stopped, w, "d2", submit, tell); err == nil || strings.Contains(err.Error(), "d2") {
		t.Errorf("a retry that is stopped says %v", err)
	}
}
