package journal_test

import (
	"context"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

// wake wakes a journal within a limit.
func wake(t *testing.T, j *journal.Journal, idle, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return j.Wake(ctx, idle)
}

// TestWakeWaitsForServer is about one that is down; one that has become
// silent is in tests/lambda, TestThaw.
func TestWakeWaitsForServer(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.server.Stop()
	await.True(t, "the disconnect", func() bool { return w.Ready(t.Context()) != nil })
	for _, idle := range []time.Duration{0, time.Hour} {
		wantCode(t, wake(t, w.Journal, idle, 100*time.Millisecond), deliberation.Unavailable)
	}
	woken := make(chan error, 1)
	go func() { woken <- wake(t, w.Journal, 0, await.Limit) }()
	w.server.Restart()
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
	if err := wake(t, w.Journal, time.Hour, await.Limit); err != nil {
		t.Fatalf("a server that is up: %v", err)
	}
}

func TestWakeAfterClose(t *testing.T) {
	t.Parallel()
	j := journaltest.Undeployed(t, journal.Settings{URL: journaltest.Start(t).URL})
	j.Close()
	if err := wake(t, j, 0, time.Second); err == nil {
		t.Error("a closed journal wakes up")
	}
}
