package journal_test

import (
	"strings"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// TestPrefix has everything under names with a prefix, and nothing else.
func TestPrefix(t *testing.T) {
	t.Parallel()
	const prefix = "TEAM-A_"
	s := journaltest.Start(t)
	_, js := journaltest.Dial(t, s.URL)
	w := world{server: s, worker: journaltest.NewWorker(t, s.URL), Journal: journaltest.Undeployed(t, journal.Settings{URL: s.URL, Prefix: prefix})}
	layout := journaltest.Layout()
	layout.AgentResponses, layout.Relay = true, true
	for range 2 {
		if err := w.Deploy(t.Context(), layout); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range streams(t, js) {
		if !strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(name, "KV_"), "OBJ_"), prefix) {
			t.Errorf("there is %s", name)
		}
	}
	if err := w.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.accept(t, "d1", 2)
	w.wantEnd(t, "d1", 2<<20)
	if _, saved, err := w.SaveSnapshot(t.Context(), journaltest.Snapshot(t, deliberation.NewLedger(nil)), 0); err != nil || !saved {
		t.Errorf("no snapshot: %v", err)
	}
	if err := w.CatchUp(t.Context(), deliberation.NewLedger(nil)); err != nil {
		t.Error(err)
	}
	if err := w.Announce(t.Context(), "orchestration.deliberation.completed", "id", nil, nil); err != nil {
		t.Error(err)
	}
	if err := w.StoreDeadLetter(t.Context(), w.giveUp(t, journaltest.Record("d2", 1, 300))); err != nil {
		t.Error(err)
	}
	if list := must[[]journal.DeadLetterSummary](t)(w.ListDeadLetters(t.Context())); len(list) != 1 {
		t.Errorf("given up is %v", list)
	}
	w.keepUndelivered(t, "d1", "refused", 1)
	if list := w.undelivered(t, "d1"); len(list) != 1 {
		t.Errorf("stored is %v", list)
	}

	// Subjects have no prefix: two journals need two accounts.
	err := deployTo(t, journal.Settings{URL: s.URL, Prefix: "TEAM-B_"})
	wantAdvice(t, err, "taken")
	if !strings.Contains(err.Error(), prefix+journal.Stream) {
		t.Errorf("%q does not name what is there", err)
	}
}
