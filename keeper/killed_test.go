package keeper_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	"rayexecutor/keeper/keepertest"
)

// keeperURL names the NATS of a test's child, which is a keeper and no more.
const keeperURL = "TEST_KEEPER_NATS_URL"

// keepUntilKilled is what a test's child runs.
func keepUntilKilled(url string) {
	j, err := journal.Connect(journal.Settings{URL: url, Name: "child", Log: keepertest.Quiet()})
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stdout, "keeping")
	_ = keeper.New(j, keepertest.Quiet()).Run(context.Background())
}

// keepApart runs a keeper in a process of its own.
func (w world) keepApart(t *testing.T) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), keeperURL+"="+w.Server.URL)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "keeping\n" {
		t.Fatalf("the keeper says %q, %v", line, err)
	}
	return command
}

// TestAKilledKeeper has three keepers at work on a stream of ends and deadlines,
// and kills two of them with no warning.
func TestAKilledKeeper(t *testing.T) {
	t.Parallel()
	w := setup(t)
	killed := []*exec.Cmd{w.keepApart(t), w.keepApart(t)}
	w.keep(t, keepertest.Quiet())
	heard := w.Subscribe(t, announcements)
	const n = 300
	ids := make(map[string]bool)
	for i := range n {
		id := fmt.Sprint("d", i)
		ids[id+".done"] = true
		w.Submit(t, id, 1, 1) // what nobody ends, the keepers do
		if i%3 > 0 {
			w.Complete(t, id)
		}
		if i%100 == 50 && len(killed) > 0 {
			keepertest.Next(t, heard) // it is at work
			if err := killed[0].Process.Kill(); err != nil {
				t.Fatal(err)
			}
			killed = killed[1:]
		}
	}
	again(t, func() error {
		if got := w.stored(t); got < n {
			return fmt.Errorf("%d announcements are stored, want %d", got, n)
		}
		return nil
	})
	for _, message := range journaltest.Messages(t, w.Server.URL, journal.Announcements, announcements) {
		var event announced
		if err := json.Unmarshal(message.Data, &event); err != nil {
			t.Fatal(err)
		}
		if !ids[event.ID] {
			t.Errorf("%s is announced twice, or as something else", event.ID)
		}
		delete(ids, event.ID)
	}
	if len(ids) > 0 {
		t.Errorf("never announced are %v", ids)
	}
	ledger := deliberation.NewLedger(nil)
	if err := w.CatchUp(t.Context(), ledger); err != nil {
		t.Fatal(err)
	}
	if stats := ledger.Stats(); stats.GetFailedDeliberations() != n/3 || stats.GetCompletedDeliberations() != n-n/3 {
		t.Errorf("the statistics are %s", stats)
	}
}

// TestStatisticsOutliveTheJournal counts what the journal has forgotten, too.
func TestStatisticsOutliveTheJournal(t *testing.T) {
	t.Parallel()
	w := setup(t)
	stop := w.keep(t, keepertest.Quiet())
	for i := range 10 {
		w.Submit(t, fmt.Sprint("old", i), 1, 300)
		w.Complete(t, fmt.Sprint("old", i))
	}
	again(t, func() error {
		if ledger, _, err := w.Ledger(t.Context()); err != nil || ledger.Sequence() < 20 {
			return fmt.Errorf("no snapshot reaches so far: %w", err)
		}
		return nil
	})
	stop()
	stream, err := w.JS.Stream(t.Context(), journal.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil { // as its age does
		t.Fatal(err)
	}
	w.Submit(t, "new", 1, 300)
	w.Submit(t, "ended", 1, 300)
	w.Complete(t, "ended")

	stored, _, err := w.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for ledger, want := range map[*deliberation.Ledger][3]int64{stored: {12, 11, 1}, deliberation.NewLedger(nil): {2, 1, 1}} {
		if err := w.CatchUp(t.Context(), ledger); err != nil {
			t.Fatal(err)
		}
		stats := ledger.Stats()
		if got := [3]int64{stats.GetTotalDeliberations(), stats.GetCompletedDeliberations(), stats.GetActiveDeliberations()}; got != want {
			t.Errorf("the statistics are %v, want %v", got, want)
		}
	}
}
