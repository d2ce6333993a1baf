// Package backup runs the commands of docs/reliability.md that back the journal
// up and restore it, and looks whether everything goes on.
package backup_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/testing/protocmp"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	"rayexecutor/keeper/keepertest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

// world is a journal on a server of its own.
type world struct {
	t *testing.T
	*journal.Journal
	server *journaltest.Server
	worker *journaltest.Worker
	js     jetstream.JetStream
}

func newWorld(t *testing.T, server *journaltest.Server, j *journal.Journal) world {
	t.Helper()
	_, js := journaltest.Dial(t, server.URL)
	return world{t: t, Journal: j, server: server, worker: journaltest.NewWorker(t, server.URL), js: js}
}

func (w world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w world) submit(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		_, err := w.Accept(w.t.Context(), journaltest.Record(id, 1, 3600), "")
		w.must(err)
	}
}

func (w world) complete(id, proposal string) {
	w.t.Helper()
	won, err := w.worker.Completed(w.t.Context(), id, journaltest.Result(0, proposal))
	if w.must(err); !won {
		w.t.Errorf("%s had ended before", id)
	}
}

// keep runs a keeper until stop is called.
func (w world) keep() (stop func()) {
	w.t.Helper()
	return keepertest.Run(w.t, keeper.New(journaltest.Undeployed(w.t, journal.Settings{URL: w.server.URL}), keepertest.Quiet()))
}

// await repeats until it holds.
func (w world) await(what string, holds func() bool) {
	w.t.Helper()
	await.True(w.t, what, holds)
}

// announced is how often each event id occurs among the announcements.
func (w world) announced() map[string]int {
	w.t.Helper()
	ids := make(map[string]int)
	for _, message := range journaltest.Messages(w.t, w.server.URL, journal.Announcements, events.AnnouncementSubjects) {
		var event struct{ ID string }
		w.must(json.Unmarshal(message.Data, &event))
		ids[event.ID]++
	}
	return ids
}

// seen is all that a caller can read.
type seen struct {
	Status map[string]*pb.GetDeliberationStatusResponse
	Stats  *pb.RayExecutorStats
	List   []*pb.DeliberationSummary
	Dead   []journal.DeadLetterSummary
}

func (w world) see(ids ...string) seen {
	w.t.Helper()
	all := seen{Status: make(map[string]*pb.GetDeliberationStatusResponse)}
	for _, id := range ids {
		story, err := w.Read(w.t.Context(), id)
		w.must(err)
		all.Status[id] = story.Status(id)
	}
	ledger, _, err := w.Ledger(w.t.Context())
	w.must(err)
	w.must(w.CatchUp(w.t.Context(), ledger))
	all.Stats = ledger.Stats()
	page, _, err := w.Page(w.t.Context(), deliberation.Query{Size: 100})
	w.must(err)
	all.List = page
	all.Dead, err = w.ListDeadLetters(w.t.Context())
	w.must(err)
	return all
}

// consumers is how far each of the journal's readers is.
func (w world) consumers() map[string]string {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), journal.Stream)
	w.must(err)
	states := make(map[string]string)
	for info := range stream.ListConsumers(w.t.Context()).Info() {
		if info.Config.Durable != "" {
			states[info.Name] = fmt.Sprintf("%d pending, %d held, %d acknowledged", info.NumPending, info.NumAckPending, info.AckFloor.Stream)
		}
	}
	return states
}

// take pulls what waits, as workers do, and acknowledges it or not.
func (w world) take(n int, acknowledge bool) (ids []string) {
	w.t.Helper()
	consumer, err := w.js.Consumer(w.t.Context(), journal.Stream, "pool-default")
	w.must(err)
	for len(ids) < n {
		batch, err := consumer.Fetch(n-len(ids), jetstream.FetchMaxWait(await.Limit))
		w.must(err)
		for message := range batch.Messages() {
			_, _, id, _ := events.ParseSubject(message.Subject())
			ids = append(ids, id)
			if acknowledge {
				w.must(message.DoubleAck(w.t.Context()))
			}
		}
		if w.must(batch.Error()); len(ids) == 0 {
			w.t.Fatal("nothing waits")
		}
	}
	return ids
}

// run runs a block of the document, against a server.
func run(t *testing.T, block, dir, url string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", block)
	command.Dir = dir
	command.Env = append(os.Environ(), "NATS_URL="+url, "PATH="+filepath.Join(system.Root(), ".tools")+":"+os.Getenv("PATH"))
	if printed, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\nprinted\n%s", err, block, printed)
	}
}

// blocks are the commands of the section, in order.
func blocks(t *testing.T) (backup, restore string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(system.Root(), "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Backup and restore\n")
	section, _, _ = strings.Cut(section, "\n## ")
	found := system.Commands(section)
	if len(found) != 2 {
		t.Fatalf("the section has %d blocks, want backup and restore", len(found))
	}
	return found[0], found[1]
}

// TestBackupAndRestore loses a server and what happened since its backup.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	backup, restore := blocks(t)
	dir := t.TempDir()
	if err := errors.Join(system.Build("build"), os.Symlink(filepath.Join(system.Root(), "bin"), filepath.Join(dir, "bin"))); err != nil {
		t.Fatal(err)
	}
	server := journaltest.Start(t)
	old := newWorld(t, server, journaltest.Connect(t, server.URL))
	ids := live(old)
	before, readers := old.see(ids...), old.consumers()
	run(t, backup, dir, server.URL)

	// What the backup does not have.
	stop := old.keep()
	old.complete("running", "as it was")
	old.await("the announcements", func() bool { return old.announced()["running.done"] == 1 && old.announced()["late.done"] == 1 })
	stop()
	server.Stop()

	fresh := journaltest.Start(t)
	run(t, restore, dir, fresh.URL)
	now := newWorld(t, fresh, journaltest.Undeployed(t, journal.Settings{URL: fresh.URL}))
	now.await("the connection", func() bool { return now.Ready(t.Context()) == nil })
	if diff := cmp.Diff(before, now.see(ids...), protocmp.Transform()); diff != "" {
		t.Errorf("callers read something else (-before +restored):\n%s", diff)
	}
	if diff := cmp.Diff(readers, now.consumers()); diff != "" {
		t.Errorf("the readers stand elsewhere (-before +restored):\n%s", diff)
	}
	goesOn(now)
}

// live leaves a journal with all that there can be in one.
func live(w world) (ids []string) {
	w.t.Helper()
	stop := w.keep()
	w.submit("ended", "large", "dead", "running", "late", "queued-1", "queued-2")
	w.take(5, false)
	w.complete("ended", "yes")
	bulk := strings.Repeat("x", 700<<10)
	_, err := w.End(w.t.Context(), "large", &pb.DeliberationCompleted{
		DeliberationId: "large", Results: []*pb.DeliberationResult{journaltest.Result(0, bulk), journaltest.Result(1, bulk)},
	}, "")
	w.must(err)
	_, err = w.End(w.t.Context(), "dead", &pb.DeliberationFailed{DeliberationId: "dead", GivenUp: true}, "")
	w.must(err)
	_, _, err = w.worker.Started(w.t.Context(), "running", 1, time.Time{}, 0)
	w.must(err)
	w.await("the announcements", func() bool { return len(w.announced()) == 3 })
	w.await("what was given up", func() bool { dead, err := w.ListDeadLetters(w.t.Context()); return err == nil && len(dead) == 1 })
	w.await("the snapshot", func() bool {
		ledger, _, err := w.Ledger(w.t.Context())
		return err == nil && ledger.Stats().GetTotalDeliberations() == 7
	})
	stop()
	w.complete("late", "nobody has heard of it")
	return []string{"ended", "large", "dead", "running", "late", "queued-1", "queued-2"}
}

// goesOn ends all that is open: workers pull what waits, one that held something
// ends it, two keepers announce what was not announced.
func goesOn(w world) {
	w.t.Helper()
	for range 2 {
		defer w.keep()()
	}
	for _, id := range w.take(2, true) {
		w.complete(id, "after the restore")
	}
	// Its first result is lost, the second is recorded: the same id, another end.
	w.complete("running", "once more")
	want := map[string]int{
		"ended.done": 1, "large.done": 1, "dead.done": 1, "late.done": 1, "running.done": 1, "queued-1.done": 1, "queued-2.done": 1,
	}
	w.await("the announcements", func() bool { return len(w.announced()) == len(want) })
	if diff := cmp.Diff(want, w.announced()); diff != "" {
		w.t.Errorf("announced is something else (-want +got):\n%s", diff)
	}
	stats := w.see().Stats
	if stats.GetTotalDeliberations() != 7 || stats.GetActiveDeliberations() != 0 || stats.GetCompletedDeliberations() != 6 || stats.GetFailedDeliberations() != 1 {
		w.t.Errorf("the statistics are %s", stats)
	}
	w.submit("new")
}
