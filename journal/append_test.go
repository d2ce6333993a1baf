package journal_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestAccept(t *testing.T) {
	t.Parallel()
	w := setup(t)
	record := journaltest.Record("d1", 2, 300)
	w.accept(t, "d1", 2)

	other := journaltest.Record("d1", 3, 60)
	other.Pool = "gpu"
	for _, again := range []*pb.DeliberationRequested{record, other} {
		existing, err := w.Accept(t.Context(), again, "")
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, existing, record)
	}
	if n := w.messages(t, events.HistorySubject("d1")); n != 1 {
		t.Errorf("%d messages exist, want 1", n)
	}
}

func TestAcceptAfterTheRequestIsGone(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if _, err := w.worker.Agent(t.Context(), "d1", 0, "yes"); err != nil {
		t.Fatal(err)
	}
	_, err := w.Accept(t.Context(), journaltest.Record("d1", 1, 300), "")
	wantCode(t, err, deliberation.Conflict)
}

func TestAcceptRace(t *testing.T) {
	t.Parallel()
	w := setup(t)
	var accepted atomic.Int32
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			record := journaltest.Record("d1", 1, 300)
			record.Pool = fmt.Sprintf("p%d", i%3)
			existing, err := w.Accept(t.Context(), record, "")
			if err != nil {
				t.Error(err)
			} else if existing == nil {
				accepted.Add(1)
			}
		})
	}
	group.Wait()
	if n := w.messages(t, events.HistorySubject("d1")); n != 1 || accepted.Load() != 1 {
		t.Errorf("%d messages exist and %d callers were accepted, want 1 and 1", n, accepted.Load())
	}
}

func TestTraceParentIsStored(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), journaltest.Record("d1", 1, 300), trace))
	stored := journaltest.Messages(t, w.server.URL, journal.Stream, events.HistorySubject("d1"))
	if got := events.Trace(stored[0].Header); got != trace {
		t.Errorf("traceparent is %q", got)
	}
}

func TestEndRace(t *testing.T) {
	t.Parallel()
	w := setup(t)
	for i := range 20 {
		id := fmt.Sprintf("d%d", i)
		w.accept(t, id, 1)
		var won atomic.Int32
		var group sync.WaitGroup
		for _, end := range []proto.Message{completed(id), failed(id), cancelled(id)} {
			group.Go(func() {
				first, err := w.End(t.Context(), id, end, "")
				if err != nil {
					t.Error(err)
				} else if first {
					won.Add(1)
				}
			})
		}
		group.Wait()
		if n := w.messages(t, events.EndSubject(id)); n != 1 || won.Load() != 1 {
			t.Errorf("%s: %d ends exist and %d writers won, want 1 and 1", id, n, won.Load())
		}
		if won := must[bool](t)(w.End(t.Context(), id, completed(id), "")); won {
			t.Errorf("%s ended again", id)
		}
	}
}

// fill accepts until the journal says no and returns how many it took.
func (w world) fill(t *testing.T, size int) (accepted int, err error) {
	t.Helper()
	for accepted = 0; err == nil && accepted < 10_000; accepted++ {
		record := journaltest.Record(fmt.Sprintf("fill-%d", accepted), 1, 300)
		record.Request.TaskDescription = strings.Repeat("x", size)
		_, err = w.Accept(t.Context(), record, "")
	}
	return accepted - 1, err
}

func TestWatermarkReservesCapacityForEnds(t *testing.T) {
	t.Parallel()
	const limit, size = 4 << 20, 32 << 10
	w := setup(t, func(layout *journal.Layout) { layout.MaxBytes = limit })
	accepted, err := w.fill(t, size)
	refused := wantCode(t, err, deliberation.LimitReached)
	if refused.RetryAfter <= 0 || !strings.Contains(refused.Message, "JOURNAL_MAX_BYTES") {
		t.Errorf("refused with %+v", refused)
	}
	existing, err := w.Accept(t.Context(), journaltest.Record("fill-0", 1, 300), "")
	if err != nil || existing.GetDeliberationId() != "fill-0" {
		t.Errorf("what was accepted is answered with %v, %v", existing, err)
	}
	if share := float64(accepted*size) / limit; share < 0.7 || share > 0.82 {
		t.Errorf("refused at %.0f %% of the journal, want about 80", 100*share)
	}
	for i := range accepted {
		if won := must[bool](t)(w.End(t.Context(), fmt.Sprintf("fill-%d", i), cancelled(fmt.Sprintf("fill-%d", i)), "")); !won {
			t.Errorf("fill-%d did not end", i)
		}
	}
}

func TestFullJournal(t *testing.T) {
	t.Parallel()
	w := setup(t, func(layout *journal.Layout) { layout.MaxBytes = 1 << 20 })
	w.accept(t, "d1", 1)
	bulk := journaltest.Result(0, strings.Repeat("x", 200<<10))
	var err error
	for i := 0; err == nil && i < 20; i++ {
		_, err = w.End(t.Context(), fmt.Sprintf("other-%d", i), completed(fmt.Sprintf("other-%d", i), bulk), "")
	}
	wantCode(t, err, deliberation.LimitReached)
}
