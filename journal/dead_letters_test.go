package journal_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// giveUp ends a deliberation as the worker does when it has died each time.
func (w world) giveUp(t *testing.T, record *pb.DeliberationRequested) *deliberation.History {
	t.Helper()
	must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, ""))
	id := record.GetDeliberationId()
	end := failed(id)
	end.ErrorMessage, end.GivenUp = "given up after 5 attempts", true
	must[bool](t)(w.End(t.Context(), id, end, ""))
	return w.history(t, id)
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if list := must[[]journal.DeadLetterSummary](t)(w.ListDeadLetters(t.Context())); len(list) > 0 {
		t.Errorf("at first there is %v", list)
	}
	// Above what a message holds, and so is its copy.
	record := journaltest.Record("d1", 1, 300)
	record.Request.TaskDescription = strings.Repeat("x", deliberation.MaxRequestBytes-200)
	history := w.giveUp(t, record)
	if !history.DeadLetter {
		t.Fatal("it does not count as given up")
	}
	for range 2 {
		if err := w.StoreDeadLetter(t.Context(), history); err != nil {
			t.Fatal(err)
		}
	}
	list := must[[]journal.DeadLetterSummary](t)(w.ListDeadLetters(t.Context()))
	if len(list) != 1 || list[0].ID != "d1" || list[0].TaskID != "task-d1" || list[0].Pool != deliberation.DefaultPool ||
		!list[0].Ended.Equal(history.Ended) || list[0].Reason != "given up after 5 attempts" {
		t.Fatalf("the list is %+v", list)
	}
	dead := must[journal.DeadLetter](t)(w.ReadDeadLetter(t.Context(), "d1"))
	wantEqual(t, dead.Request, record.GetRequest())
	wantEqual(t, dead.Status, history.Status("d1"))

	for range 2 {
		if err := w.DeleteDeadLetter(t.Context(), "d1"); err != nil {
			t.Fatal(err)
		}
	}
	if list := must[[]journal.DeadLetterSummary](t)(w.ListDeadLetters(t.Context())); len(list) > 0 {
		t.Errorf("left is %v", list)
	}
	_, err := w.ReadDeadLetter(t.Context(), "d1")
	if refused := wantCode(t, err, deliberation.NotFound); !strings.Contains(refused.Message, "dead list") {
		t.Errorf("%q does not say what to do", refused.Message)
	}
}

// What was given up has room of its own: once that is full, nothing is lost of
// what is there, and the journal continues.
func TestDeadLettersAreBounded(t *testing.T) {
	t.Parallel()
	w := setup(t, func(layout *journal.Layout) { layout.MaxBytes = 4 << 20 }) // 256 KiB for these
	var (
		err     error
		history *deliberation.History
		stored  int
	)
	for ; err == nil && stored < 20; stored++ {
		record := journaltest.Record(fmt.Sprint("d", stored), 1, 300)
		record.Request.TaskDescription = strings.Repeat("x", 50<<10)
		history = w.giveUp(t, record)
		err = w.StoreDeadLetter(t.Context(), history)
	}
	if refused := wantCode(t, err, deliberation.LimitReached); !strings.Contains(refused.Message, journal.DeadLetterBucket) {
		t.Errorf("%q does not say what is full", refused.Message)
	}
	if list := must[[]journal.DeadLetterSummary](t)(w.ListDeadLetters(t.Context())); len(list) != stored-1 {
		t.Errorf("%d are stored, want %d", len(list), stored-1)
	}
	if err := w.DeleteDeadLetter(t.Context(), "d0"); err != nil {
		t.Fatal(err)
	}
	if err := w.StoreDeadLetter(t.Context(), history); err != nil {
		t.Fatal(err)
	}
	must[journal.DeadLetter](t)(w.ReadDeadLetter(t.Context(), history.Requested.GetDeliberationId()))
	w.accept(t, "after", 1)
}

func TestUnreadableDeadLetter(t *testing.T) {
	t.Parallel()
	for _, document := range []string{``, `{}`, `{"request": {}, "status": 1}`, `{"request": {"task": 1}, "status": {}}`} {
		if err := json.Unmarshal([]byte(document), new(journal.DeadLetter)); err == nil {
			t.Errorf("%q is read", document)
		}
	}
}
