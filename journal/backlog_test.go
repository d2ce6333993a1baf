package journal_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// TestTooManyOpen: while too many deliberations are open new requests are refused.
// Repeats are answered, and what was accepted ends.
func TestTooManyOpen(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	publish := func(open int64) {
		t.Helper()
		if err := w.PublishOpen(t.Context(), open); err != nil {
			t.Fatal(err)
		}
		w.SetCapacity(&jetstream.StreamInfo{}, time.Hour)
	}
	publish(journal.MaxOpen)
	w.accept(t, "d2", 1)
	publish(journal.MaxOpen + 1)
	_, err := w.Accept(t.Context(), journaltest.Record("d3", 1, 300), "")
	if refused := wantCode(t, err, deliberation.LimitReached); !strings.Contains(refused.Message, "500,000 deliberations are open") {
		t.Errorf("refused with %q", refused.Message)
	}
	if recorded, err := w.Accept(t.Context(), journaltest.Record("d2", 1, 300), ""); err != nil || recorded.GetDeliberationId() != "d2" {
		t.Errorf("a repeat: %v, %v", recorded, err)
	}
	must[bool](t)(w.End(t.Context(), "d1", completed("d1"), ""))
	publish(0)
	w.accept(t, "d3", 1)
}

// TestOldNumberOfOpen: a keeper that is away refuses nothing.
func TestOldNumberOfOpen(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if err := w.PublishOpen(t.Context(), journal.MaxOpen+1); err != nil {
		t.Fatal(err)
	}
	now := must[time.Time](t)(w.Now(t.Context()))
	for after, refused := range map[time.Duration]bool{30 * time.Second: true, 2 * time.Minute: false} {
		if got := w.RefusesAt(t.Context(), now.Add(after)); got != refused {
			t.Errorf("%s later: refused %t, want %t", after, got, refused)
		}
	}
}
