package journal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// watch follows a history and sends what it receives, then how it ended.
func (w world) watch(ctx context.Context, id string, after uint64) (received <-chan string, ended <-chan error) {
	names, end := make(chan string, 1000), make(chan error, 1)
	go func() {
		end <- w.Watch(ctx, id, after, func(entry deliberation.Entry) error {
			if entry.Event == nil {
				names <- "opened"
				return nil
			}
			names <- fmt.Sprintf("%d %s", entry.Sequence, events.Type(entry.Event)[len("ray_executor.v1."):])
			return nil
		})
		close(names)
	}()
	return names, end
}

func all(received <-chan string) (names []string) {
	for name := range received {
		names = append(names, name)
	}
	return names
}

// live writes a history of six entries, among which are another deliberation's
// third.
func (w world) live(t *testing.T, id string) {
	t.Helper()
	w.accept(t, id, 2)
	if _, stored, err := w.worker.Started(t.Context(), id, 1, time.Time{}, 0); err != nil || !stored {
		t.Fatal(stored, err)
	}
	w.accept(t, "other-"+id, 1)
	for i := range 2 {
		if stored, err := w.worker.Agent(t.Context(), id, i, "p"); err != nil || !stored {
			t.Fatal(stored, err)
		}
	}
	if won, err := w.worker.Completed(t.Context(), id); err != nil || !won {
		t.Fatal(won, err)
	}
}

var history = []string{
	"opened", "1 DeliberationRequested", "2 DeliberationStarted", "4 AgentCompleted", "5 AgentCompleted", "6 DeliberationCompleted",
}

// TestWatch: the entries are the same whether it happened before or while it
// was watched, and ends with the deliberation.
func TestWatch(t *testing.T) {
	t.Parallel()
	w := setup(t)
	received, ended := w.watch(t.Context(), "d", 0)
	if err := <-ended; deliberation.AsError(err).Code != deliberation.NotFound || len(all(received)) > 0 {
		t.Errorf("an unknown id: %v", err)
	}
	w.accept(t, "d", 2)
	received, ended = w.watch(t.Context(), "d", 0)
	got := []string{<-received, <-received}
	if _, stored, err := w.worker.Started(t.Context(), "d", 1, time.Time{}, 0); err != nil || !stored {
		t.Fatal(stored, err)
	}
	w.accept(t, "other", 1)
	for i := range 2 {
		got = append(got, <-received)
		if stored, err := w.worker.Agent(t.Context(), "d", i, "p"); err != nil || !stored {
			t.Fatal(stored, err)
		}
	}
	if won, err := w.worker.Completed(t.Context(), "d"); err != nil || !won {
		t.Fatal(won, err)
	}
	got = append(got, all(received)...)
	if diff := cmp.Diff(history, got); diff != "" || <-ended != nil {
		t.Error(diff)
	}
}

// TestWatchResumes behind each sequence, without a gap and without a repeat.
func TestWatchResumes(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.live(t, "d")
	for after, want := range map[uint64][]string{
		0: history, 1: append([]string{"opened"}, history[2:]...), 3: append([]string{"opened"}, history[3:]...),
		5: {"opened", history[5]}, 6: nil, 1 << 40: nil,
	} {
		received, ended := w.watch(t.Context(), "d", after)
		if diff := cmp.Diff(want, all(received)); diff != "" || <-ended != nil {
			t.Errorf("after %d: %s", after, diff)
		}
	}
	w.accept(t, "e", 1)
	received, ended := w.watch(t.Context(), "e", 1<<40) // a sequence of another journal
	if got := <-received; got != "opened" {
		t.Fatal(got)
	}
	if won, err := w.End(t.Context(), "e", &pb.DeliberationCancelled{DeliberationId: "e"}, ""); err != nil || !won {
		t.Fatal(won, err)
	}
	if got := all(received); len(got) != 1 || <-ended != nil {
		t.Errorf("got %v", got)
	}
}

var errEnough = errors.New("enough")

// TestWatchStops when the handler returns an error, with that error.
func TestWatchStops(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.live(t, "d")
	for _, at := range []int{1, 3} {
		calls := 0
		err := w.Watch(t.Context(), "d", 0, func(deliberation.Entry) error {
			if calls++; calls == at {
				return errEnough
			}
			return nil
		})
		if !errors.Is(err, errEnough) || calls != at {
			t.Errorf("%v after %d calls", err, calls)
		}
	}
	w.accept(t, "e", 1)
	ctx, cancel := context.WithCancel(t.Context())
	received, ended := w.watch(ctx, "e", 0)
	<-received
	<-received
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// TestWatchWhileNATSDisconnects: the watch ends as Unavailable, and another one
// continues after the last sequence once NATS is connected.
func TestWatchWhileNATSDisconnects(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d", 1)
	received, ended := w.watch(t.Context(), "d", 0)
	<-received
	<-received
	w.server.Stop()
	if err := await.Receive(t, "the end of the watch", ended); deliberation.AsError(err).Code != deliberation.Unavailable {
		t.Errorf("got %v", err)
	}
	w.server.Restart()
	if err := w.Wake(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	received, ended = w.watch(t.Context(), "d", 1)
	if got := <-received; got != "opened" {
		t.Fatal(got)
	}
	if won, err := w.End(t.Context(), "d", &pb.DeliberationCancelled{DeliberationId: "d"}, ""); err != nil || !won {
		t.Fatal(won, err)
	}
	if got := all(received); len(got) != 1 || <-ended != nil {
		t.Errorf("got %v", got)
	}
}
