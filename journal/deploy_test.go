package journal_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

func TestDeploy(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, js := journaltest.Dial(t, w.server.URL)
	config := func() jetstream.StreamConfig {
		return must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream)).CachedInfo().Config
	}
	inFlight := func(name string) int {
		consumer := must[jetstream.Consumer](t)(js.Consumer(t.Context(), journal.Stream, name))
		return consumer.CachedInfo().Config.MaxAckPending
	}
	before := config()
	if before.Discard != jetstream.DiscardNew || before.Storage != jetstream.FileStorage ||
		before.MaxMsgSize != 1<<20 || before.MaxAge != 7*24*time.Hour {
		t.Errorf("the journal is %+v", before)
	}
	w.accept(t, "d1", 1)

	layout := journaltest.Layout()
	if err := w.Deploy(t.Context(), layout); err != nil {
		t.Fatalf("again: %v", err)
	}
	layout.Pools = []journal.Pool{{Name: "default", InFlight: 7, Parked: 1000}, {Name: "gpu", InFlight: 10_000}}
	layout.MaxAge, layout.MaxBytes = 24*time.Hour, 1<<30
	if err := w.Deploy(t.Context(), layout); err != nil {
		t.Fatalf("with changes: %v", err)
	}
	if after := config(); after.MaxAge != 24*time.Hour || after.MaxBytes != 1<<30 {
		t.Errorf("the journal is %+v", after)
	}
	if inFlight("pool-default") != 1007 || inFlight("pool-gpu") != 10_000 {
		t.Errorf("in flight: %d and %d", inFlight("pool-default"), inFlight("pool-gpu"))
	}
	for pool, want := range map[string]time.Duration{"pool-default": 15 * time.Second, "pool-gpu": time.Minute} {
		consumer := must[jetstream.Consumer](t)(js.Consumer(t.Context(), journal.Stream, pool))
		if got := consumer.CachedInfo().Config.AckWait; got != want {
			t.Errorf("%s waits %v for a word, want %v", pool, got, want)
		}
	}
	w.wantBoth(t, "d1", status("queued"))
}

func TestPoolsPullTheirOwn(t *testing.T) {
	t.Parallel()
	w := setup(t, func(layout *journal.Layout) {
		layout.Pools = append(layout.Pools, journal.Pool{Name: "gpu", InFlight: 1})
	})
	_, js := journaltest.Dial(t, w.server.URL)
	record := journaltest.Record("d1", 1, 300)
	record.Pool = "gpu"
	if _, err := w.Accept(t.Context(), record, ""); err != nil {
		t.Fatal(err)
	}
	w.accept(t, "d2", 1)
	for pool, id := range map[string]string{"gpu": "d1", "default": "d2"} {
		consumer := must[jetstream.Consumer](t)(js.Consumer(t.Context(), journal.Stream, "pool-"+pool))
		await.True(t, "one that waits in pool "+pool, func() bool { // the server counts behind the publish
			return must[*jetstream.ConsumerInfo](t)(consumer.Info(t.Context())).NumPending == 1
		})
		message := must[jetstream.Msg](t)(consumer.Next())
		if want := "deliberation.requested." + pool + "." + id; message.Subject() != want {
			t.Errorf("pool %s was handed %s", pool, message.Subject())
		}
	}
}
