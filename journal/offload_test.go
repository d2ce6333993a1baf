package journal_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// stored reads the only message on a subject, without inlining.
func stored[T proto.Message](t *testing.T, w world, subject string) T {
	t.Helper()
	messages := journaltest.Messages(t, w.server.URL, journal.Stream, subject)
	if len(messages) != 1 {
		t.Fatalf("%d messages on %s, want 1", len(messages), subject)
	}
	return must[proto.Message](t)(events.Lifecycle(messages[0].Header, messages[0].Data)).(T)
}

func TestOffloadLargeRequest(t *testing.T) {
	t.Parallel()
	w := setup(t)
	record := journaltest.Record("d1", 1, 300)
	record.Request.TaskDescription = strings.Repeat("x", deliberation.MaxRequestBytes-200)
	must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, ""))

	light := stored[*pb.DeliberationRequested](t, w, events.HistorySubject("d1"))
	if light.GetRequest() != nil || !strings.HasPrefix(light.GetRequestRef(), "sha256-") || light.GetTaskId() != "task-d1" {
		t.Errorf("stored is %s", light)
	}
	wantEqual(t, w.history(t, "d1").Requested, record)
	wantEqual(t, must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, "")), record)
}

// A worker from before strategies reads `request` alone, and refuses a request
// without agents: so it runs no vote as independent, after a rollback either.
func TestOlderWorkersRefuseAStrategy(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"small": 1, "large": deliberation.MaxRequestBytes - 300} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			record := journaltest.Record("d1", 1, 300)
			record.Request.TaskDescription = strings.Repeat("x", size)
			record.Request.Strategy = &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: &pb.Vote{}}}
			must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, ""))

			data := journaltest.Messages(t, w.server.URL, journal.Stream, events.HistorySubject("d1"))[0].Data
			var older pb.DeliberationRequested
			if err := proto.Unmarshal(data, &older); err != nil {
				t.Fatal(err)
			}
			if ref := older.GetRequestRef(); ref != "" {
				_, js := journaltest.Dial(t, w.server.URL)
				store := must[jetstream.ObjectStore](t)(js.ObjectStore(t.Context(), journal.Results))
				data = must[[]byte](t)(store.GetBytes(t.Context(), ref))
				older.Reset()
				if err := proto.Unmarshal(data, &older); err != nil {
					t.Fatal(err)
				}
			} else if size > 1 {
				t.Error("it is not offloaded")
			}
			if len(older.GetRequest().GetAgents()) != 0 || older.GetDeliberationId() != "d1" {
				t.Errorf("an older worker reads %v", &older)
			}
			wantEqual(t, w.history(t, "d1").Requested, record)
			wantEqual(t, must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, "")), record)
		})
	}
}

func TestOffloadLargeResults(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 2)
	bulk := strings.Repeat("x", 700<<10)
	end := completed("d1", journaltest.Result(0, bulk), journaltest.Result(1, bulk))
	must[bool](t)(w.End(t.Context(), "d1", end, ""))

	light := stored[*pb.DeliberationCompleted](t, w, events.EndSubject("d1"))
	if len(light.GetResults()) != 0 || light.GetResultsRef() == "" {
		t.Errorf("stored are %d results and ref %q", len(light.GetResults()), light.GetResultsRef())
	}
	w.wantBoth(t, "d1", status("completed", bulk, bulk))
}

func TestOffloadTwice(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	whole := completed("d1", journaltest.Result(0, "yes"))
	once := must[proto.Message](t)(w.Offload(t.Context(), whole))
	wantEqual(t, must[proto.Message](t)(w.Offload(t.Context(), once)), once)
	wantEqual(t, must[proto.Message](t)(w.Offload(t.Context(), whole)), once)
	wantEqual(t, whole, completed("d1", journaltest.Result(0, "yes")))

	must[bool](t)(w.End(t.Context(), "d1", once, ""))
	w.wantBoth(t, "d1", status("completed", "yes"))

	started := &pb.DeliberationStarted{DeliberationId: "d1"}
	wantEqual(t, must[proto.Message](t)(w.Offload(t.Context(), started)), started)
}

// TestIncompleteObjectIsReplaced has a name whose parts are not there, as a put
// leaves it that failed in between.
func TestIncompleteObjectIsReplaced(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	end := completed("d1", journaltest.Result(0, "yes"))
	must[proto.Message](t)(w.Offload(t.Context(), end))
	_, js := journaltest.Dial(t, w.server.URL)
	bucket := must[jetstream.Stream](t)(js.Stream(t.Context(), "OBJ_"+journal.Results))
	if err := bucket.Purge(t.Context(), jetstream.WithPurgeSubject("$O.*.C.>")); err != nil {
		t.Fatal(err)
	}
	must[bool](t)(w.End(t.Context(), "d1", must[proto.Message](t)(w.Offload(t.Context(), end)), ""))
	w.wantBoth(t, "d1", status("completed", "yes"))
}

func TestObjectGone(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	light := completed("d1")
	light.ResultsRef = "sha256-gone"
	must[bool](t)(w.End(t.Context(), "d1", light, ""))
	w.wantBoth(t, "d1", status("completed"))
}
