package journal_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// TestConflictNeedsEvidence has the compare-and-set find what a read does
// not, as it is while servers that were cut off find together again: nothing is
// settled by that.
func TestConflictNeedsEvidence(t *testing.T) {
	t.Parallel()
	running, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	running.Start()
	t.Cleanup(func() { running.Shutdown(); running.WaitForShutdown() })
	if !running.ReadyForConnections(30 * time.Second) {
		t.Fatal("the nats-server did not start")
	}
	j := journaltest.Connect(t, running.ClientURL())
	record := journaltest.Record("d1", 1, 300)
	if _, err := j.Accept(t.Context(), record, ""); err != nil {
		t.Fatal(err)
	}
	if won, err := j.End(t.Context(), "d1", failed("d1"), ""); err != nil || !won {
		t.Fatal(won, err)
	}

	// Reads reach a leader that has nothing.
	conn, _ := journaltest.Dial(t, running.ClientURL())
	if _, err := conn.Subscribe("stale", func(message *nats.Msg) {
		_ = message.Respond([]byte(`{"error": {"code": 404, "err_code": 10037, "description": "no message found"}}`))
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	reads := "$JS.API.STREAM.MSG.GET." + journal.Stream
	if err := running.GlobalAccount().AddMapping(reads, "stale"); err != nil {
		t.Fatal(err)
	}
	_, err = j.Accept(t.Context(), record, "")
	wantCode(t, err, deliberation.Unavailable)
	_, err = j.End(t.Context(), "d1", failed("d1"), "")
	wantCode(t, err, deliberation.Unavailable)

	running.GlobalAccount().RemoveMapping(reads)
	if existing, err := j.Accept(t.Context(), record, ""); err != nil || existing.GetDeliberationId() != "d1" {
		t.Errorf("once it is seen: %v, %v", existing, err)
	}
	if won, err := j.End(t.Context(), "d1", failed("d1"), ""); err != nil || won {
		t.Errorf("once it is seen an end is won %t, %v", won, err)
	}
}
