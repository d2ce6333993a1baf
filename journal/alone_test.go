package journal_test

import (
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// TestALeaderAlone has the journal's leader lose its followers. It goes on
// taking messages for a while, stores none, and tells who repeats that another
// message stands.
func TestALeaderAlone(t *testing.T) {
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
	leader := servers[int(stream.CachedInfo().Cluster.Leader[1]-'0')]
	j := journaltest.Undeployed(t, journal.Settings{URL: leader.URL, Wait: 500 * time.Millisecond})
	await(t, "the leader takes a request", func() bool {
		_, err := j.Accept(t.Context(), journaltest.Record("before", 1, 300), "")
		return err == nil
	})
	for _, server := range servers {
		if server != leader {
			server.Stop()
		}
	}
	for range 3 { // the first may find no answer, the next ones find themselves
		_, err := j.Accept(t.Context(), journaltest.Record("alone", 1, 300), "")
		wantCode(t, err, deliberation.Unavailable)
		won, err := j.End(t.Context(), "before", failed("before"), "")
		if wantCode(t, err, deliberation.Unavailable); won {
			t.Error("an end is won that no other server has")
		}
	}
}
