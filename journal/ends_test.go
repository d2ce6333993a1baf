package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

// listen reads the ends until the test ends or stop is called.
func (w world) listen(t *testing.T, announce func(journal.Delivery) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- w.Ends(ctx, journal.Announcer, func(_ context.Context, end journal.Delivery) error { return announce(end) })
	}()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() { cancel(); err = await.Receive(t, "a value", ended) })
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func about(end journal.Delivery) string {
	return end.Event.(interface{ GetDeliberationId() string }).GetDeliberationId()
}

func TestEnds(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	bulk := strings.Repeat("x", 1<<20)
	w.accept(t, "d1", 1)
	must[bool](t)(w.End(t.Context(), "d1", completed("d1", journaltest.Result(0, bulk)), trace))
	received := make(chan journal.Delivery, 10)
	stop := w.listen(t, func(end journal.Delivery) error { received <- end; return nil })
	end := await.Receive(t, "a value", received)
	wantEqual(t, end.Event, completed("d1", journaltest.Result(0, bulk)))
	if end.TraceParent != trace || end.Sequence != 2 || end.Time.IsZero() {
		t.Errorf("trace %q, sequence %d, time %s", end.TraceParent, end.Sequence, end.Time)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped with %v", err)
	}
	w.accept(t, "d2", 1)
	must[bool](t)(w.End(t.Context(), "d2", failed("d2"), ""))
	w.listen(t, func(end journal.Delivery) error { received <- end; return nil })
	if end := await.Receive(t, "a value", received); about(end) != "d2" {
		t.Errorf("%s is announced again", about(end))
	}
}

func TestEndsAreRedelivered(t *testing.T) {
	t.Parallel()
	w := setup(t)
	must[bool](t)(w.End(t.Context(), "d1", failed("d1"), ""))
	must[bool](t)(w.End(t.Context(), "d2", failed("d2"), ""))
	received, tries := make(chan string, 10), 0
	w.listen(t, func(end journal.Delivery) error {
		if about(end) == "d1" {
			if tries++; tries < 2 {
				return errors.New("not yet")
			}
		}
		received <- about(end)
		return nil
	})
	if first, second := await.Receive(t, "a value", received), await.Receive(t, "a value", received); first != "d2" || second != "d1" {
		t.Errorf("received %s and %s: one that fails must not hold up the other", first, second)
	}
}

func TestEndsStopWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	w := setup(t)
	must[bool](t)(w.End(t.Context(), "d1", failed("d1"), ""))
	unavailable := &deliberation.Error{Code: deliberation.Unavailable}
	err := w.Ends(t.Context(), journal.Announcer, func(context.Context, journal.Delivery) error { return unavailable })
	if !errors.Is(err, unavailable) {
		t.Errorf("ended with %v", err)
	}
}

// TestEndsReturnsUnread stops a keeper that has fetched more than it announced:
// the next one receives the rest without waiting.
func TestEndsReturnsUnread(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = 20
	for i := range n {
		must[bool](t)(w.End(t.Context(), fmt.Sprint("d", i), failed(fmt.Sprint("d", i)), ""))
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen := map[string]bool{}
	var several sync.Mutex
	_ = w.Ends(ctx, journal.Announcer, func(_ context.Context, end journal.Delivery) error {
		several.Lock()
		defer several.Unlock()
		seen[about(end)] = true
		cancel()
		return nil
	})
	rest := n - len(seen)
	received := make(chan string, n)
	w.listen(t, func(end journal.Delivery) error { received <- about(end); return nil })
	for range rest {
		seen[await.Receive(t, "a value", received)] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d ends", len(seen), n)
	}
}

func TestEndsAreShared(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = 200
	received := make(chan string, 2*n)
	for range 2 {
		w.listen(t, func(end journal.Delivery) error { received <- about(end); return nil })
	}
	for i := range n {
		must[bool](t)(w.End(t.Context(), fmt.Sprint("d", i), failed(fmt.Sprint("d", i)), ""))
	}
	seen := map[string]int{}
	for range n {
		seen[await.Receive(t, "a value", received)]++
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s was handed out %d times", id, times)
		}
	}
}

func TestAnnounceOnce(t *testing.T) {
	t.Parallel()
	w := setup(t)
	subject := events.AnnouncementSubject(deliberation.Failed)
	for _, id := range []string{"d1.done", "d1.done", "d2.done"} {
		if err := w.Announce(t.Context(), subject, id, nil, []byte(id)); err != nil {
			t.Fatal(err)
		}
	}
	if got := journaltest.Messages(t, w.server.URL, journal.Announcements, subject); len(got) != 2 {
		t.Errorf("%d announcements exist, want 2", len(got))
	}
	err := w.Announce(t.Context(), subject, "d3.done", nil, make([]byte, w.MaxAnnouncement()+(32<<10)))
	wantCode(t, err, deliberation.TooLarge)
}
