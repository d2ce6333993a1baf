package journal_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// list pages through all that a query asks for; between pages something else
// may happen.
func (w world) list(t *testing.T, query deliberation.Query, between func()) (ids []string, pages int) {
	t.Helper()
	for {
		page, next, err := w.Page(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > query.Size {
			t.Fatalf("a page of %d, asked for %d", len(page), query.Size)
		}
		for _, history := range page {
			ids = append(ids, history.GetDeliberationId())
		}
		if pages++; next == 0 {
			return ids, pages
		}
		if query.Before != 0 && next >= query.Before {
			t.Fatalf("the page before %d is followed by that before %d", query.Before, next)
		}
		query.Before = next
		between()
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	w := setup(t)
	want := map[string][]string{}
	for i := range 60 {
		id, pool := fmt.Sprintf("d%02d", i), []string{"default", "gpu", "gpu"}[i%3]
		record := journaltest.Record(id, 1, 300)
		record.Pool, record.TaskId = pool, fmt.Sprintf("t%d", i%5)
		must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, ""))
		state := "queued"
		if i%4 == 0 {
			must[bool](t)(w.End(t.Context(), id, failed(id), ""))
			state = "failed"
		}
		for _, key := range []string{"", pool, record.GetTaskId(), state, pool + state} {
			want[key] = append(want[key], id)
		}
	}
	for key, query := range map[string]deliberation.Query{
		"": {}, "gpu": {Pool: "gpu"}, "t3": {TaskID: "t3"}, "failed": {State: deliberation.Failed},
		"queued": {State: deliberation.Queued}, "gpufailed": {Pool: "gpu", State: deliberation.Failed},
		"none": {Pool: "none"}, "running": {State: deliberation.Running},
	} {
		slices.Reverse(want[key])
		for _, size := range []int{1, 7, 200} {
			query.Size = size
			if got, _ := w.list(t, query, func() {}); !slices.Equal(got, want[key]) {
				t.Errorf("%+v: got %v, want %v", query, got, want[key])
			}
		}
	}
}

func TestPageWhileNewOnesArrive(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var want []string
	for i := range 30 {
		w.accept(t, fmt.Sprintf("d%02d", i), 1)
		want = append(want, fmt.Sprintf("d%02d", i))
	}
	slices.Reverse(want)
	n := 0
	got, _ := w.list(t, deliberation.Query{Size: 4}, func() {
		n++
		w.accept(t, fmt.Sprintf("new%d", n), 1)
		must[bool](t)(w.End(t.Context(), want[n], cancelled(want[n]), ""))
	})
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPageEmpty(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if ids, pages := w.list(t, deliberation.Query{Size: 5}, func() {}); len(ids) != 0 || pages != 1 {
		t.Errorf("%v on %d pages of an empty journal", ids, pages)
	}
}

// TestPageIsBounded searches for one that is far back: several pages are empty,
// and it is found all the same.
func TestPageIsBounded(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "far", 1)
	must[bool](t)(w.End(t.Context(), "far", failed("far"), ""))
	seed(t, w.server.URL, "seed", 1500)
	ids, pages := w.list(t, deliberation.Query{Size: 5, State: deliberation.Failed}, func() {})
	if !slices.Equal(ids, []string{"far"}) || pages < 3 {
		t.Errorf("found %v on %d pages", ids, pages)
	}
}

// TestPageOfLargeRequests: an older journal may hold long names. A page of them ends
// early, and they are all found.
func TestPageOfLargeRequests(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for i := range 12 {
		record := journaltest.Record(fmt.Sprintf("d%02d", i), 1, 300)
		record.TaskId = strings.Repeat("t", 400_000)
		must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, ""))
	}
	page, _, err := w.Page(t.Context(), deliberation.Query{Size: 200})
	if err != nil || len(page) != 3 {
		t.Errorf("a page holds %d of 400 kB each, %v", len(page), err)
	}
	ids, pages := w.list(t, deliberation.Query{Size: 200}, func() {})
	if len(ids) != 12 || pages < 4 {
		t.Errorf("%d are found in %d pages", len(ids), pages)
	}
}

// TestPageOfRarePool is found like any other: the server is never asked to search
// for it, which it does under a lock.
func TestPageOfRarePool(t *testing.T) {
	t.Parallel()
	w := setup(t)
	rare := journaltest.Record("rare", 1, 300)
	rare.Pool = "rare"
	must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), rare, ""))
	seed(t, w.server.URL, "seed", 1500)
	ids, pages := w.list(t, deliberation.Query{Size: 5, Pool: "rare"}, func() {})
	if !slices.Equal(ids, []string{"rare"}) || pages < 3 {
		t.Errorf("found %v on %d pages", ids, pages)
	}
}
