package journal_test

import (
	"errors"
	"flag"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestMain(m *testing.M) {
	// Histories restart servers: fewer than rapid's 100, unless a flag says otherwise.
	_ = flag.Set("rapid.checks", "20")
	journaltest.VerifyTestMain(m)
}

// world is what most tests need: a server, a deployed journal and a worker.
type world struct {
	server *journaltest.Server
	*journal.Journal
	worker *journaltest.Worker
}

func setup(t testing.TB, change ...func(*journal.Layout)) world {
	t.Helper()
	server := journaltest.Start(t)
	return world{
		server: server, Journal: journaltest.Connect(t, server.URL, change...),
		worker: journaltest.NewWorker(t, server.URL),
	}
}

func (w world) accept(t testing.TB, id string, agents int) {
	t.Helper()
	existing, err := w.Accept(t.Context(), journaltest.Record(id, agents, 300), "")
	if err != nil || existing != nil {
		t.Fatalf("accept %s: %v, %v", id, existing, err)
	}
}

func (w world) history(t testing.TB, id string) *deliberation.History {
	t.Helper()
	history, err := w.Read(t.Context(), id)
	if err != nil {
		t.Fatalf("history of %s: %v", id, err)
	}
	return history
}

func (w world) messages(t testing.TB, subject string) int {
	t.Helper()
	return len(journaltest.Messages(t, w.server.URL, journal.Stream, subject))
}

func completed(id string, results ...*pb.DeliberationResult) *pb.DeliberationCompleted {
	return &pb.DeliberationCompleted{DeliberationId: id, TaskId: "task-" + id, Results: results}
}

func failed(id string) *pb.DeliberationFailed {
	return &pb.DeliberationFailed{DeliberationId: id, TaskId: "task-" + id, ErrorMessage: "none"}
}

func cancelled(id string) *pb.DeliberationCancelled {
	return &pb.DeliberationCancelled{DeliberationId: id, TaskId: "task-" + id, Reason: "changed my mind"}
}

// must takes what worked.
func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func wantCode(t testing.TB, err error, code deliberation.Code) *deliberation.Error {
	t.Helper()
	coded, ok := errors.AsType[*deliberation.Error](err)
	if !ok || coded.Code != code {
		t.Fatalf("error is %#v, want code %s", err, code)
	}
	return coded
}

func wantEqual(t testing.TB, got, want proto.Message) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("not as expected (-want +got):\n%s", diff)
	}
}
