package keeper_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	"rayexecutor/keeper/keepertest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(keeperURL); url != "" {
		keepUntilKilled(url)
		return
	}
	journaltest.VerifyTestMain(m)
}

const announcements = "orchestration.deliberation.*"

type world struct {
	keepertest.World

	worker *journaltest.Worker
}

func setup(t testing.TB) world {
	t.Helper()
	w := keepertest.Setup(t)
	return world{w, journaltest.NewWorker(t, w.Server.URL)}
}

// keep runs a keeper with a connection of its own until the test ends or stop
// is called.
func (w world) keep(t testing.TB, log *slog.Logger, options ...keeper.Option) (stop func()) {
	t.Helper()
	return keepertest.Run(t, keeper.New(w.Connect(t), log, options...))
}

// stored counts the announcements in the stream.
func (w world) stored(t *testing.T) int {
	t.Helper()
	return len(journaltest.Messages(t, w.Server.URL, journal.Announcements, announcements))
}

// announced is a structured CloudEvent as a listener reads it.
type announced struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	Subject         string          `json:"subject"`
	Time            time.Time       `json:"time"`
	DataContentType string          `json:"datacontenttype"`
	TraceParent     string          `json:"traceparent"`
	Data            json.RawMessage `json:"data"`
}

func read(t *testing.T, message *nats.Msg) announced {
	t.Helper()
	var event announced
	if err := json.Unmarshal(message.Data, &event); err != nil {
		t.Fatalf("%s: %v", message.Data, err)
	}
	if got := message.Header.Get("content-type"); got != "application/cloudevents+json" {
		t.Errorf("content type is %q", got)
	}
	return event
}

func TestAnnouncement(t *testing.T) {
	t.Parallel()
	w := setup(t)
	one, two := w.Subscribe(t, announcements), w.Subscribe(t, announcements)
	w.keep(t, keepertest.Quiet())
	w.Submit(t, "d1", 2, 300)
	w.Complete(t, "d1", journaltest.Result(0, "yes"), journaltest.Result(1, ""))

	for _, listener := range []<-chan *nats.Msg{one, two} {
		message := keepertest.Next(t, listener)
		if message.Subject != "orchestration.deliberation.completed" || message.Header.Get("Nats-Msg-Id") != "d1.done" {
			t.Errorf("on %s with id %q", message.Subject, message.Header.Get("Nats-Msg-Id"))
		}
		event := read(t, message)
		want := announced{
			SpecVersion: "1.0", ID: "d1.done", Source: events.Source, Type: "ray_executor.v1.DeliberationCompleted", Subject: "d1",
			Time: event.Time, DataContentType: "application/json", TraceParent: keepertest.Trace, Data: event.Data,
		}
		if diff := cmp.Diff(want, event); diff != "" || !event.Time.Equal(w.Status(t, "d1").GetEndedAt().AsTime()) {
			t.Errorf("not as expected (-want +got):\n%s at %s", diff, event.Time)
		}
		var data pb.DeliberationCompleted
		if err := events.UnmarshalJSON(event.Data, &data); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&pb.DeliberationCompleted{
			DeliberationId: "d1", TaskId: "task-d1", Results: []*pb.DeliberationResult{journaltest.Result(0, "yes"), journaltest.Result(1, "")},
		}, &data, protocmp.Transform()); diff != "" {
			t.Errorf("not as expected (-want +got):\n%s", diff)
		}
		if !strings.Contains(string(event.Data), `"agent_id"`) {
			t.Errorf("not in snake_case: %s", event.Data)
		}
	}
}

func TestEachEndHasItsSubject(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	if _, err := w.End(t.Context(), "d1", &pb.DeliberationFailed{DeliberationId: "d1", ErrorMessage: "none"}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.End(t.Context(), "d2", &pb.DeliberationCancelled{DeliberationId: "d2", Reason: "enough"}, ""); err != nil {
		t.Fatal(err)
	}
	w.keep(t, keepertest.Quiet())
	var got []string
	for range 2 {
		message := keepertest.Next(t, heard)
		var data struct {
			Why    string `json:"error_message"`
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal(read(t, message).Data, &data); err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimPrefix(message.Subject, "orchestration.deliberation.")+" "+data.Why+data.Reason)
	}
	slices.Sort(got) // they are announced together
	if want := []string{"cancelled enough", "failed none"}; !slices.Equal(got, want) {
		t.Errorf("announced are %q", got)
	}
}

func TestLargeAnnouncement(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	w.keep(t, keepertest.Quiet())
	// In protobuf it fits into the journal, in JSON it fits nowhere: a quote
	// takes two bytes there.
	want := &pb.DeliberationCompleted{Results: []*pb.DeliberationResult{journaltest.Result(0, strings.Repeat(`"`, 600<<10))}}
	w.Complete(t, "d1", want.GetResults()...)
	var data pb.DeliberationCompleted
	if err := events.UnmarshalJSON(read(t, keepertest.Next(t, heard)).Data, &data); err != nil {
		t.Fatal(err)
	}
	if len(data.GetResults()) != 0 || !strings.HasPrefix(data.GetResultsRef(), "sha256-") {
		t.Fatalf("announced with %d results and ref %q", len(data.GetResults()), data.GetResultsRef())
	}
	store, err := w.JS.ObjectStore(t.Context(), journal.Results)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.GetBytes(t.Context(), data.GetResultsRef()); err != nil {
		t.Errorf("the object that it names: %v", err)
	}
}

// TestNothingIsTooLargeToBeTold: a control character takes six bytes in JSON, and
// none of these texts is one that the object store could take.
func TestNothingIsTooLargeToBeTold(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	bulk := strings.Repeat("\x01", 200<<10)
	w.keep(t, keepertest.Quiet())
	for id, end := range map[string]proto.Message{
		"why":    &pb.DeliberationFailed{DeliberationId: "why", ErrorMessage: bulk},
		"reason": &pb.DeliberationCancelled{DeliberationId: "reason", Reason: bulk},
		"task": &pb.DeliberationCompleted{
			DeliberationId: "task", TaskId: bulk, Results: []*pb.DeliberationResult{journaltest.Result(0, bulk)},
		},
	} {
		if _, err := w.End(t.Context(), id, end, ""); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for range 3 {
		event := read(t, keepertest.Next(t, heard))
		got = append(got, event.Subject)
		if event.Subject == "task" && !strings.Contains(string(event.Data), "sha256-") {
			t.Errorf("without its results' name: %.100s", event.Data)
		}
	}
	slices.Sort(got)
	if want := []string{"reason", "task", "why"}; !slices.Equal(got, want) {
		t.Errorf("announced are %q", got)
	}
}

func TestOverdueInTheQueue(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	w.keep(t, keepertest.Quiet())
	w.Submit(t, "d1", 2, 1)
	w.Submit(t, "later", 2, 300)
	if message := keepertest.Next(t, heard); message.Subject != "orchestration.deliberation.failed" {
		t.Fatalf("announced %s", message.Subject)
	}
	got := w.Status(t, "d1")
	if got.GetStatus() != "failed" || !strings.Contains(got.GetErrorMessage(), "timed out after 1 s: no worker took it; does one run for pool default?") {
		t.Errorf("it ended as %s", got)
	}
	if n := len(got.GetResults()); n != 2 || got.GetResults()[1].GetMetadata()["error_type"] != "timeout" {
		t.Errorf("the results are %v", got.GetResults())
	}
	if after := got.GetEndedAt().AsTime().Sub(got.GetSubmittedAt().AsTime()); after < time.Second {
		t.Errorf("it ended after %s", after)
	}
	if state := w.Status(t, "later").GetStatus(); state != "queued" {
		t.Errorf("the other one is %s", state)
	}
}

func TestOverdueWhileRunning(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	w.keep(t, keepertest.Quiet())
	for _, id := range []string{"some", "none"} {
		w.Submit(t, id, 3, 1)
		if _, _, err := w.worker.Started(t.Context(), id, 1, time.Time{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.worker.Agent(t.Context(), "some", 1, "yes"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.worker.Agent(t.Context(), "none", 1, ""); err != nil {
		t.Fatal(err)
	}
	keepertest.Next(t, heard)
	keepertest.Next(t, heard)

	some := w.Status(t, "some")
	if some.GetStatus() != "completed" || some.GetResult().GetProposal() != "yes" {
		t.Errorf("with one proposal it ended as %s", some)
	}
	for i, want := range []string{"timeout", "", "timeout"} {
		if got := some.GetResults()[i]; got.GetAgentId() != fmt.Sprint("a", i) || got.GetMetadata()["error_type"] != want {
			t.Errorf("result %d is %s", i, got)
		}
	}
	none := w.Status(t, "none")
	if none.GetStatus() != "failed" || len(none.GetResults()) != 3 || !strings.Contains(none.GetErrorMessage(), "none of its 3 agents had completed") {
		t.Errorf("without a proposal it ended as %s", none)
	}
}

// The keeper counts the votes that the lost worker has recorded.
func TestOverdueVote(t *testing.T) {
	t.Parallel()
	w := setup(t)
	record := journaltest.Record("d1", 4, 1)
	record.Request.Strategy = &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: &pb.Vote{}}}
	record.Request.Agents[2].Weight = 3
	if _, err := w.Accept(t.Context(), record, ""); err != nil {
		t.Fatal(err)
	}
	for index, answer := range []string{"x", "x", "y"} {
		result := journaltest.Result(index, "It is "+answer)
		result.Metadata["answer"] = answer
		event := &pb.AgentCompleted{DeliberationId: "d1", AgentIndex: int32(index), Result: result}
		if stored, err := w.worker.Write(t.Context(), event, events.AgentSubject(index, "d1")); err != nil || !stored {
			t.Fatal(stored, err)
		}
	}
	heard := w.Subscribe(t, announcements)
	w.keep(t, keepertest.Quiet())
	keepertest.Next(t, heard)
	status := w.Status(t, "d1")
	if status.GetWinner() != "a2" || status.GetResult().GetAgentId() != "a2" || status.GetResult().GetScore() != 0.6 ||
		status.GetResults()[0].GetAssessment().GetRank() != 2 || status.GetResults()[3].GetAssessment() != nil {
		t.Errorf("got %v", status)
	}
}

func TestTwoKeepers(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	for range 2 {
		w.keep(t, keepertest.Quiet())
	}
	const n = 30
	for i := range n {
		w.Submit(t, fmt.Sprint("d", i), 1, 1)
	}
	for range n {
		keepertest.Next(t, heard)
	}
	for i := range n {
		subject := events.EndSubject(fmt.Sprint("d", i))
		if ends := journaltest.Messages(t, w.Server.URL, journal.Stream, subject); len(ends) != 1 {
			t.Errorf("d%d has %d ends", i, len(ends))
		}
	}
	if got := w.stored(t); got != n {
		t.Errorf("%d announcements are stored, want %d", got, n)
	}
}

// TestNothingIsLost kills keepers and restarts NATS under them.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = 40
	stop := w.keep(t, keepertest.Quiet())
	for i := range n {
		id := fmt.Sprint("d", i)
		again(t, func() error {
			_, err := w.Accept(t.Context(), journaltest.Record(id, 1, 1), "")
			return err
		})
		if i%2 == 0 {
			again(t, func() error {
				_, err := w.End(t.Context(), id, &pb.DeliberationCompleted{DeliberationId: id}, "")
				return err
			})
		}
		switch i {
		case 10:
			stop()
			stop = w.keep(t, keepertest.Quiet())
		case 20:
			w.Server.Stop()
			w.Server.Restart()
		}
	}
	again(t, func() error {
		ledger := deliberation.NewLedger(nil)
		if err := w.CatchUp(t.Context(), ledger); err != nil {
			return err
		}
		if active := ledger.Stats().GetActiveDeliberations(); active > 0 {
			return fmt.Errorf("%d are active", active)
		}
		return nil
	})
	again(t, func() error {
		if got := w.stored(t); got != n {
			return fmt.Errorf("%d announcements are stored, want %d", got, n)
		}
		return nil
	})
}

// again repeats until it works.
func again(t *testing.T, call func() error) {
	t.Helper()
	await.NoError(t, "the keeper", call)
}

func TestSnapshotGoesForward(t *testing.T) {
	t.Parallel()
	w := setup(t)
	bucket, err := w.JS.KeyValue(t.Context(), journal.Statistics)
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := bucket.WatchAll(t.Context(), jetstream.UpdatesOnly())
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	for range 2 {
		w.keep(t, keepertest.Quiet())
	}
	var reached uint64
	for round := range 2 {
		w.Submit(t, fmt.Sprint("open", round), 1, 300)
		w.Submit(t, fmt.Sprint("ended", round), 1, 300)
		w.Complete(t, fmt.Sprint("ended", round))
		for sequence := uint64(3*round + 3); reached < sequence; {
			keepertest.Next(t, watcher.Updates())
			ledger, _, err := w.Ledger(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if ledger.Sequence() < reached {
				t.Errorf("the snapshot went back from %d to %d", reached, ledger.Sequence())
			}
			reached = ledger.Sequence()
		}
	}
	stored, _, err := w.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	recount := deliberation.NewLedger(nil)
	for _, ledger := range []*deliberation.Ledger{stored, recount} {
		if err := w.CatchUp(t.Context(), ledger); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(journaltest.Message(t, recount), journaltest.Message(t, stored), protocmp.Transform()); diff != "" {
		t.Errorf("a recount differs (-recount +stored):\n%s", diff)
	}
	if stored.Stats().GetTotalDeliberations() != 4 || stored.Stats().GetCompletedDeliberations() != 2 {
		t.Errorf("the statistics are %s", stored.Stats())
	}
}

// TestQuietWhileNATSIsAway counts what is logged in several rounds of trying.
func TestQuietWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.Subscribe(t, announcements)
	var log bytes.Buffer
	stop := w.keep(t, slog.New(slog.NewTextHandler(&log, nil)))
	w.Submit(t, "d1", 1, 300)
	w.Complete(t, "d1")
	keepertest.Next(t, heard)
	w.Server.Stop()
	<-time.After(5 * time.Second) // the subject is time itself: what is logged meanwhile
	started := time.Now()
	stop()
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if lines := strings.Count(log.String(), "\n"); lines > 4 {
		t.Errorf("%d lines:\n%s", lines, log.String())
	}
}
