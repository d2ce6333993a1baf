package journal_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

// TestDeployTogether has several deploy at once, as the keepers of a new
// installation do: each comes to an end.
func TestDeployTogether(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes three servers")
	}
	servers := journaltest.Cluster(t, 3)
	var deploying sync.WaitGroup
	for n := range 6 {
		j := journaltest.Undeployed(t, journal.Settings{URL: servers[n%3].URL})
		layout := journaltest.Layout()
		layout.Replicas = 3
		deploying.Go(func() {
			if err := j.Deploy(t.Context(), layout); err != nil {
				t.Errorf("one of them: %v", err)
			}
		})
	}
	deploying.Wait()
}

// TestLeaderWithoutQuorum leaves the journal's leader alone: while it
// still answers, no caller receives "not found", for the
// others may have it.
func TestLeaderWithoutQuorum(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes three servers")
	}
	servers := journaltest.Cluster(t, 3)
	journaltest.Connect(t, servers[0].URL, func(layout *journal.Layout) { layout.Replicas = 3 })
	_, js := journaltest.Dial(t, servers[0].URL)
	stream, err := js.Stream(t.Context(), journal.Stream)
	if err != nil {
		t.Fatal(err)
	}
	leader := slices.IndexFunc(servers, func(s *journaltest.Server) bool { return s.Name() == stream.CachedInfo().Cluster.Leader })
	if leader < 0 {
		t.Fatalf("no server is called %q", stream.CachedInfo().Cluster.Leader)
	}
	alone := journaltest.Undeployed(t, journal.Settings{URL: servers[leader].URL})
	if history, err := alone.Read(t.Context(), "nobody"); err != nil || history.State != deliberation.Unknown {
		t.Fatalf("while all are there: %v, %v", history, err)
	}
	_, js = journaltest.Dial(t, servers[leader].URL)
	for i, s := range servers {
		if i != leader {
			s.Stop()
		}
	}
	await.True(t, "the leader to lose its contacts", func() bool {
		stream, err := js.Stream(t.Context(), journal.Stream)
		if err != nil {
			t.Fatalf("it never answered without a quorum, nothing was tested: %v", err)
		}
		return !slices.ContainsFunc(stream.CachedInfo().Cluster.Replicas, func(f *jetstream.PeerInfo) bool {
			return !f.Offline && f.Active < 3*time.Second
		})
	})
	for range 20 {
		if history, err := alone.Read(t.Context(), "nobody"); deliberation.AsError(err).Code != deliberation.Unavailable {
			t.Fatalf("without a quorum it answers %v, %v", history, err)
		}
	}
}

// TestCluster has several writers on each of three servers race for each end
// while the journal's leader steps down repeatedly.
func TestCluster(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes three servers")
	}
	servers := journaltest.Cluster(t, 3)
	journals := make([]*journal.Journal, len(servers))
	for i, s := range servers {
		journals[i] = journaltest.Connect(t, s.URL, func(layout *journal.Layout) { layout.Replicas = 3 })
	}
	const ids = 150
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	stepDowns := stepDown(t, ctx, servers[0].URL)

	var won [ids]atomic.Int32
	var writers sync.WaitGroup
	for kind := range 3 {
		for i := range ids {
			if i%10 != 0 { // ten goroutines a kind, each with its own ids
				continue
			}
			writers.Go(func() {
				for id := i; id < i+10; id++ {
					if liveAndEnd(ctx, t, journals[(kind+id)%3], fmt.Sprintf("d%d", id), kind) {
						won[id].Add(1)
					}
				}
			})
		}
	}
	writers.Wait()
	changes := stepDowns()

	for id := range ids {
		name := fmt.Sprintf("d%d", id)
		for i, j := range journals {
			history, err := j.Read(ctx, name)
			if err != nil || !history.State.Ended() {
				t.Errorf("server %d answers %s for %s, %v", i, history.State, name, err)
			}
		}
		// If an acknowledgement was lost, no writer counts as the winner.
		if n := won[id].Load(); n > 1 {
			t.Errorf("%d writers won the end of %s", n, name)
		}
		if n := len(journaltest.Messages(t, servers[0].URL, journal.Stream, events.EndSubject(name))); n != 1 {
			t.Errorf("%s ended %d times", name, n)
		}
	}
	ledger := deliberation.NewLedger(nil)
	if err := journals[1].CatchUp(ctx, ledger); err != nil {
		t.Fatal(err)
	}
	if stats := ledger.Stats(); stats.GetTotalDeliberations() != ids || stats.GetActiveDeliberations() != 0 {
		t.Errorf("the statistics are %s", stats)
	}
	t.Logf("%d ids, %d leader changes", ids, changes)
}

// liveAndEnd submits and ends one deliberation, both until it is known how it
// went, and reports whether this writer won.
func liveAndEnd(ctx context.Context, t *testing.T, j *journal.Journal, id string, kind int) bool {
	again(ctx, t, func() error {
		_, err := j.Accept(ctx, journaltest.Record(id, 1, 300), "")
		return err
	})
	end := []proto.Message{completed(id, journaltest.Result(0, "yes")), failed(id), cancelled(id)}[kind]
	var won bool
	again(ctx, t, func() (err error) {
		won, err = j.End(ctx, id, end, "")
		return err
	})
	// What an acknowledged writer reads has ended, on any server.
	again(ctx, t, func() error {
		history, err := j.Read(ctx, id)
		if err == nil && !history.State.Ended() {
			t.Errorf("%s has ended, and is read as %s", id, history.State)
		}
		return err
	})
	return won
}

// again repeats what is safe to repeat.
func again(ctx context.Context, t *testing.T, call func() error) {
	for {
		err := call()
		if err == nil {
			return
		}
		if deliberation.AsError(err).Code != deliberation.Unavailable || ctx.Err() != nil {
			t.Errorf("%v: %v", err, deliberation.AsError(err).Cause)
			return
		}
	}
}

// stepDown makes the journal's leader step down repeatedly; the function that it
// returns stops that and returns the count.
func stepDown(t *testing.T, ctx context.Context, url string) func() int {
	t.Helper()
	conn, _ := journaltest.Dial(t, url)
	ctx, cancel := context.WithCancel(ctx)
	count, ended := 0, make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Duration(100+rand.IntN(300)) * time.Millisecond):
			}
			if _, err := conn.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+journal.Stream, nil); err == nil {
				count++
			}
		}
	}()
	return func() int { cancel(); <-ended; return count }
}
