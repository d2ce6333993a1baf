// Package keepertest has what the tests of the keeper and of the relay share: a
// journal on a NATS server of the test's own, and parts that run until it ends.
package keepertest

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// Trace is the trace of every end that Complete writes.
const Trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// World is a journal on a server of the test's own.
type World struct {
	*journal.Journal

	Server *journaltest.Server
	Conn   *nats.Conn
	JS     jetstream.JetStream
}

// Setup starts a server with a deployed journal, until the test ends.
func Setup(tb testing.TB) World {
	tb.Helper()
	server := journaltest.Start(tb)
	conn, js := journaltest.Dial(tb, server.URL)
	return World{Server: server, Journal: journaltest.Connect(tb, server.URL), Conn: conn, JS: js}
}

// Connect returns a journal with a connection of its own, for a part that runs
// beside the test.
func (w World) Connect(tb testing.TB) *journal.Journal {
	tb.Helper()
	return journaltest.Undeployed(tb, journal.Settings{URL: w.Server.URL, Wait: time.Second})
}

// Redeploy deploys the journal with a changed layout.
func (w World) Redeploy(tb testing.TB, change func(*journal.Layout)) {
	tb.Helper()
	layout := journaltest.Layout()
	change(&layout)
	if err := w.Deploy(tb.Context(), layout); err != nil {
		tb.Fatal(err)
	}
}

// Subscribe returns what is published on a subject from now on.
func (w World) Subscribe(tb testing.TB, subject string) <-chan *nats.Msg {
	tb.Helper()
	messages := make(chan *nats.Msg, 1000)
	if _, err := w.Conn.ChanSubscribe(subject, messages); err != nil {
		tb.Fatal(err)
	}
	if err := w.Conn.Flush(); err != nil {
		tb.Fatal(err)
	}
	return messages
}

// Submit stores a new deliberation.
func (w World) Submit(tb testing.TB, id string, agents int, timeoutSeconds int32) {
	tb.Helper()
	if existing, err := w.Accept(tb.Context(), journaltest.Record(id, agents, timeoutSeconds), ""); err != nil || existing != nil {
		tb.Fatalf("accept %s: %v, %v", id, existing, err)
	}
}

// Complete ends a deliberation as completed.
func (w World) Complete(tb testing.TB, id string, results ...*pb.DeliberationResult) {
	tb.Helper()
	won, err := w.End(tb.Context(), id, &pb.DeliberationCompleted{DeliberationId: id, TaskId: "task-" + id, Results: results}, Trace)
	if err != nil || !won {
		tb.Fatalf("end %s: %v, %v", id, won, err)
	}
}

// Status returns the status of a deliberation.
func (w World) Status(tb testing.TB, id string) *pb.GetDeliberationStatusResponse {
	tb.Helper()
	history, err := w.Read(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	return history.Status(id)
}

// Part is a keeper or a relay.
type Part interface {
	Run(ctx context.Context) error
}

// Run runs a keeper or a relay until stop is called, or else until the test ends.
// The test fails if it returns an error.
func Run(tb testing.TB, part Part) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- part.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := Next(tb, ended); err != nil {
				tb.Errorf("%T ended with %v", part, err)
			}
		})
	}
	tb.Cleanup(stop)
	return stop
}

// Next waits for a value.
func Next[T any](tb testing.TB, values <-chan T) T {
	tb.Helper()
	return await.Receive(tb, "a value", values)
}

// Quiet logs nothing.
func Quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
