package relay_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

func TestMain(m *testing.M) { journaltest.VerifyTestMain(m) }

const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// world is a journal on a server of the test's own.
type world struct {
	server *journaltest.Server
	*journal.Journal
	conn *nats.Conn
	js   jetstream.JetStream
}

func setup(t testing.TB) world {
	t.Helper()
	server := journaltest.Start(t)
	conn, js := journaltest.Dial(t, server.URL)
	return world{server: server, Journal: journaltest.Connect(t, server.URL), conn: conn, js: js}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// announcements runs a keeper until the test ends, and returns what it announces.
func (w world) announcements(t *testing.T) <-chan *nats.Msg {
	t.Helper()
	announced := make(chan *nats.Msg, 1000)
	if _, err := w.conn.ChanSubscribe("orchestration.deliberation.*", announced); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	j := journaltest.Undeployed(t, journal.Settings{URL: w.server.URL, Wait: time.Second})
	go func() { ended <- keeper.New(j, quiet()).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := next(t, ended); err != nil {
			t.Errorf("the keeper ended with %v", err)
		}
	})
	return announced
}

func (w world) end(t *testing.T, id string, results ...*pb.DeliberationResult) {
	t.Helper()
	won, err := w.End(t.Context(), id, &pb.DeliberationCompleted{DeliberationId: id, TaskId: "task-" + id, Results: results}, trace)
	if err != nil || !won {
		t.Fatalf("end %s: %v, %v", id, won, err)
	}
}

func (w world) status(t *testing.T, id string) *pb.GetDeliberationStatusResponse {
	t.Helper()
	history, err := w.Read(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return history.Status(id)
}

// next waits for a value.
func next[T any](t testing.TB, values <-chan T) T {
	t.Helper()
	return await.Receive(t, "a value", values)
}

func (w world) submit(t *testing.T, id string, agents int, timeoutSeconds int32) {
	t.Helper()
	if existing, err := w.Accept(t.Context(), journaltest.Record(id, agents, timeoutSeconds), ""); err != nil || existing != nil {
		t.Fatalf("accept %s: %v, %v", id, existing, err)
	}
}
