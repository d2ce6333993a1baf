package journal_test

import (
	"strings"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (w world) undelivered(t *testing.T, id string) []journal.Undelivered {
	t.Helper()
	var list []journal.Undelivered
	for undelivered, err := range w.ReadUndelivered(t.Context(), id) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, undelivered)
	}
	return list
}

func (w world) keepUndelivered(t *testing.T, id, reason string, attempt uint64) {
	t.Helper()
	end := journal.Delivery{TraceParent: "00-a-b-01", Attempt: attempt, Entry: deliberation.Entry{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC), Event: completed(id, journaltest.Result(0, "yes")),
	}}
	if err := w.StoreUndelivered(t.Context(), end, reason); err != nil {
		t.Fatal(err)
	}
}

func TestUndelivered(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if list := w.undelivered(t, ""); len(list) > 0 {
		t.Errorf("without a relay there is %v", list)
	}
	for range 2 {
		if err := w.PrepareRelay(t.Context(), journaltest.Layout()); err != nil {
			t.Fatal(err)
		}
	}
	w.keepUndelivered(t, "d1", "first", 1)
	w.keepUndelivered(t, "d2", "other", 2)
	before := w.undelivered(t, "d1")
	w.keepUndelivered(t, "d1", "again\r\nNats-Rollup: all "+strings.Repeat("ü", 2000), 3)

	list := w.undelivered(t, "")
	if len(list) != 2 || list[0].ID != "d2" || list[1].ID != "d1" {
		t.Fatalf("undelivered is %v", list)
	}
	one := list[1]
	wantEqual(t, one.Event, completed("d1", journaltest.Result(0, "yes")))
	if !strings.HasPrefix(one.Reason, "again Nats-Rollup: all üü") || len(one.Reason) > 1024 || one.Attempt != 3 ||
		one.TraceParent != "00-a-b-01" || !one.Time.Equal(time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)) {
		t.Errorf("undelivered as %+v", one)
	}

	// An end that was stored again meanwhile remains.
	if err := w.DeleteUndelivered(t.Context(), before[0]); err != nil {
		t.Fatal(err)
	}
	if left := w.undelivered(t, "d1"); len(left) != 1 {
		t.Errorf("left is %v", left)
	}
	for _, undelivered := range list {
		if err := w.DeleteUndelivered(t.Context(), undelivered); err != nil {
			t.Fatal(err)
		}
	}
	if left := w.undelivered(t, ""); len(left) > 0 {
		t.Errorf("left is %v", left)
	}
}

func TestStoreUndeliveredFails(t *testing.T) {
	t.Parallel()
	w := setup(t)
	end := journal.Delivery{Entry: deliberation.Entry{Event: completed("d1")}}
	wantCode(t, w.StoreUndelivered(t.Context(), end, "no stream"), deliberation.Unavailable)
	end.Event = &pb.DeliberationStarted{}
	if err := w.StoreUndelivered(t.Context(), end, "no end"); err == nil {
		t.Error("a start is stored")
	}
	w.server.Stop()
	if err := w.PrepareRelay(t.Context(), journaltest.Layout()); err == nil {
		t.Error("a relay is prepared without NATS")
	}
	for _, err := range w.ReadUndelivered(t.Context(), "") {
		wantCode(t, err, deliberation.Unavailable)
	}
}
