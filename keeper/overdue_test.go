package keeper_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	"rayexecutor/keeper/keepertest"
)

// TestWhatTheJournalHasLostIsForgotten has a snapshot that lists what completed
// and was evicted while no keeper ran: nothing may be announced of it.
func TestWhatTheJournalHasLostIsForgotten(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string][]jetstream.StreamPurgeOpt{
		"by its age":    nil,
		"by a deletion": {jetstream.WithPurgeSubject(events.HistorySubject("lost"))},
		"its beginning": {jetstream.WithPurgeSubject("deliberation.requested.*.lost")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			if name != "by its age" {
				w.Submit(t, "first", 1, 300)
			}
			w.Submit(t, "lost", 1, 1)
			if _, _, err := w.worker.Started(t.Context(), "lost", 1, time.Time{}, 0); err != nil {
				t.Fatal(err)
			}
			w.snapshot(t)
			stream, err := w.JS.Stream(t.Context(), journal.Stream)
			if err != nil {
				t.Fatal(err)
			}
			if name != "its beginning" {
				w.Complete(t, "lost")
			}
			if err := stream.Purge(t.Context(), lost...); err != nil {
				t.Fatal(err)
			}
			w.keep(t, keepertest.Quiet())
			// The statistics have it although nothing is published after it.
			again(t, func() error {
				ledger, _, err := w.Ledger(t.Context())
				if err != nil || ledger.Stats().GetForgottenDeliberations() != 1 {
					return fmt.Errorf("the statistics are %v, %w", ledger.Stats(), err)
				}
				return nil
			})
			w.Submit(t, "probe", 1, 1)
			again(t, func() error {
				ledger, _, err := w.Ledger(t.Context())
				if err != nil || ledger.Stats().GetForgottenDeliberations() != 1 || ledger.Stats().GetFailedDeliberations() != 1 {
					return fmt.Errorf("the statistics are %v, %w", ledger.Stats(), err)
				}
				return nil
			})
			if ends := journaltest.Messages(t, w.Server.URL, journal.Stream, events.EndSubject("lost")); len(ends) != 0 {
				t.Errorf("it was ended: %s", ends[0].Subject)
			}
		})
	}
}

// snapshot stores the statistics as of now.
func (w world) snapshot(t testing.TB) {
	t.Helper()
	ledger := deliberation.NewLedger(nil)
	if err := w.CatchUp(t.Context(), ledger); err != nil {
		t.Fatal(err)
	}
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, ledger), 0); err != nil || !saved {
		t.Fatalf("saved %v, %v", saved, err)
	}
}

// far is a journal as a keeper has it over a network: each look and each end
// takes a while. It counts the looks.
type far struct {
	*journal.Journal

	way   time.Duration
	looks atomic.Int64
}

func (f *far) ReadLeader(ctx context.Context, id string) (*deliberation.History, error) {
	f.looks.Add(1)
	if f.way > 0 {
		<-time.After(f.way)
	}
	return f.Journal.ReadLeader(ctx, id)
}

// keepFar runs a keeper until the test ends.
func (w world) keepFar(t testing.TB, way time.Duration) *far {
	t.Helper()
	j := &far{Journal: journaltest.Undeployed(t, journal.Settings{URL: w.Server.URL, Wait: 10 * time.Second}), way: way}
	keepertest.Run(t, keeper.New(j, keepertest.Quiet()))
	return j
}

// TestKeepersShareABacklog has two keepers at the same backlog. Where they wait
// for the network, not for a processor, the time is that of the keeper that looks
// at more. So two are at least 1.5 times as fast as one if neither looks at more
// than two thirds.
func TestKeepersShareABacklog(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = 2000
	w.submitMany(t, n)
	w.snapshot(t)
	one, two := w.keepFar(t, 20*time.Millisecond), w.keepFar(t, 20*time.Millisecond)
	w.awaitEnds(t, n)
	a, b := one.looks.Load(), two.looks.Load()
	t.Logf("of %d one keeper looked at %d, the other at %d", n, a, b)
	if a+b > n*13/10 || max(a, b) > n*2/3 {
		t.Errorf("of %d one keeper looked at %d, the other at %d", n, a, b)
	}
}

// slow is a journal whose leader does not answer the first looks in time.
type slow struct {
	*journal.Journal

	left    atomic.Int64
	follows atomic.Int64
}

func (s *slow) ReadLeader(ctx context.Context, id string) (*deliberation.History, error) {
	if s.left.Add(-1) >= 0 {
		return nil, &deliberation.Error{Code: deliberation.Unavailable, Message: "NATS does not answer"}
	}
	return s.Journal.ReadLeader(ctx, id)
}

func (s *slow) Follow(ctx context.Context, from uint64, apply func(deliberation.Mark)) error {
	s.follows.Add(1)
	return s.Journal.Follow(ctx, from, apply)
}

// TestAFailedRoundKeepsTheLedger: a round of ends that NATS does not answer is
// repeated. The ledger is not loaded again, whose snapshot may be minutes old.
func TestAFailedRoundKeepsTheLedger(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = 20
	w.submitMany(t, n)
	j := &slow{Journal: journaltest.Undeployed(t, journal.Settings{URL: w.Server.URL})}
	j.left.Store(3)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keeper.New(j, keepertest.Quiet()).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		keepertest.Next(t, ended)
	})
	w.awaitEnds(t, n)
	if j.left.Load() >= 0 || j.follows.Load() != 1 {
		t.Errorf("%d looks were left to fail; the journal was followed %d times, want once", j.left.Load(), j.follows.Load())
	}
}

// BenchmarkBacklog ends what is overdue, with one keeper and with two: on this
// machine, where they share its processors with the server, and with a network
// between, where they wait.
func BenchmarkBacklog(b *testing.B) {
	for way, n := range map[time.Duration]int{0: 20_000, 100 * time.Millisecond: 2_000} {
		for _, keepers := range []int{1, 2} {
			b.Run(fmt.Sprintf("n=%d/way=%s/keepers=%d", n, way, keepers), func(b *testing.B) {
				for range b.N {
					b.StopTimer()
					w := setup(b)
					w.submitMany(b, n)
					w.snapshot(b)
					b.StartTimer()
					for range keepers {
						w.keepFar(b, way)
					}
					w.awaitEnds(b, n)
				}
			})
		}
	}
}

// submitMany submits what is overdue in two seconds.
func (w world) submitMany(b testing.TB, n int) {
	b.Helper()
	for i := range n {
		if _, err := w.Accept(b.Context(), journaltest.Record(fmt.Sprint("d", i), 1, 1), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func (w world) awaitEnds(b testing.TB, n int) {
	b.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	stream, err := w.JS.Stream(b.Context(), journal.Stream)
	if err != nil {
		b.Fatal(err)
	}
	for range ticker.C {
		info, err := stream.Info(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if info.State.Msgs >= uint64(2*n) {
			return
		}
	}
}

// TestAnUnreadableRequestEnds at its deadline, as any other.
func TestAnUnreadableRequestEnds(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	message := nats.NewMsg("deliberation.requested.default.bad")
	message.Header.Set("ce-timeoutseconds", "1")
	if _, err := w.JS.PublishMsg(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	w.keep(t, keepertest.Quiet())
	if message := keepertest.Next(t, heard); message.Subject != "orchestration.deliberation.failed" || !strings.Contains(string(message.Data), "cannot be read") {
		t.Errorf("on %s: %s", message.Subject, message.Data)
	}
}
