package journal_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// junk publishes what nobody can read, as an event of a type.
func (w world) junk(t *testing.T, subject, eventType, data string) {
	t.Helper()
	_, js := journaltest.Dial(t, w.server.URL)
	message := &nats.Msg{Subject: subject, Data: []byte(data), Header: nats.Header{"ce-type": {eventType}, "ce-timeoutseconds": {"60"}}}
	must[*jetstream.PubAck](t)(js.PublishMsg(t.Context(), message))
}

const (
	requestedType = "ray_executor.v1.DeliberationRequested"
	completedType = "ray_executor.v1.DeliberationCompleted"
	notProto      = "\xff\xff\xff"
)

func (w world) wantUnreadable(t *testing.T, want float64) {
	t.Helper()
	if got := w.counted(t, "ray_executor_journal_unreadable_total"); got != want {
		t.Errorf("%v are noted as unreadable, want %v", got, want)
	}
}

// counted is the value of one of the journal's counters.
func (w world) counted(t *testing.T, name string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.Metrics()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// TestUnreadableMessagesAreSkipped: each concerns its own deliberation, and
// is noted once however often it is read.
func TestUnreadableMessagesAreSkipped(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "agents", 2)
	w.accept(t, "ended", 1)
	w.junk(t, "deliberation.requested.default.bad", requestedType, notProto)
	w.junk(t, "deliberation.requested.default.other", completedType, "")          // of another kind
	w.junk(t, "deliberation.requested.default.named", requestedType, "\x0a\x01x") // of another deliberation
	w.junk(t, "deliberation.requested.default.none", "no.such.Type", "")
	w.junk(t, "deliberation.agent.0.agents", "ray_executor.v1.AgentCompleted", notProto)
	w.junk(t, "deliberation.foreign.x.agents", "", "")
	w.agent(t, "agents", 1, "yes")
	w.junk(t, "deliberation.done.completed.ended", completedType, notProto)
	for range 2 {
		if got, _ := w.list(t, deliberation.Query{Size: 10}, func() {}); !slices.Equal(got, []string{"ended", "agents"}) {
			t.Errorf("listed are %v", got)
		}
	}
	w.wantUnreadable(t, 6)

	agents := w.history(t, "agents")
	if agents.State != deliberation.Queued || deliberation.Proposed(agents.Recorded(0)) || !deliberation.Proposed(agents.Recorded(1)) {
		t.Errorf("its agents came to %v", agents.Results())
	}
	if state := w.history(t, "ended").State; state != deliberation.Completed {
		t.Errorf("it is %s", state)
	}
	bad := must[*deliberation.History](t)(w.ReadLeader(t.Context(), "bad"))
	if bad.State != deliberation.Queued || !bad.Unreadable || bad.Requested.GetTimeoutSeconds() != 60 {
		t.Errorf("a request that cannot be read: %+v", bad)
	}
	var watched int
	must[struct{}](t)(struct{}{}, w.Watch(t.Context(), "ended", 0, func(entry deliberation.Entry) error {
		watched++
		return nil
	}))
	if watched != 3 { // the beginning, the request, the end
		t.Errorf("%d were watched", watched)
	}
	_, err := w.Accept(t.Context(), journaltest.Record("bad", 1, 300), "")
	if err != nil {
		t.Errorf("a submit of its id: %v", err)
	}
}

// TestDamagedObject does not match its digest: its message is read without it.
func TestDamagedObject(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	end := completed("d1", journaltest.Result(0, strings.Repeat("x", 2<<20)))
	must[bool](t)(w.End(t.Context(), "d1", end, ""))
	_, js := journaltest.Dial(t, w.server.URL)
	store := must[jetstream.ObjectStore](t)(js.ObjectStore(t.Context(), journal.Results))
	objects := must[[]*jetstream.ObjectInfo](t)(store.List(t.Context()))
	must[*jetstream.ObjectInfo](t)(store.PutString(t.Context(), objects[0].Name, "\x0a\x02d1\x1a\x03\x0a\x01x")) // it can be read, too
	for range 2 {
		history := w.history(t, "d1")
		if history.State != deliberation.Completed || len(history.Results()) != 0 {
			t.Errorf("it is read as %s with %v", history.State, history.Results())
		}
	}
	w.wantUnreadable(t, 1)
}

// TestPermanentlyFailingEndsAreTerminated: an end that can never be handled is acknowledged.
func TestPermanentlyFailingEndsAreTerminated(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.junk(t, "deliberation.done.somehow.d0", completedType, "")
	w.accept(t, "d1", 1)
	w.accept(t, "d2", 1)
	must[bool](t)(w.End(t.Context(), "d1", completed("d1"), ""))
	must[bool](t)(w.End(t.Context(), "d2", failed("d2"), ""))
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	received := make(chan string, 10)
	ended := make(chan error, 1)
	go func() {
		ended <- w.Ends(ctx, journal.Announcer, func(_ context.Context, end journal.Delivery) error {
			received <- about(end)
			if _, isFailure := end.Event.(*pb.DeliberationFailed); isFailure {
				return &deliberation.Error{Code: deliberation.TooLarge, Message: "for all"}
			}
			return nil
		})
	}()
	await.Receive(t, "a value", received)
	await.Receive(t, "a value", received)
	_, js := journaltest.Dial(t, w.server.URL)
	await.True(t, "the consumer to have nothing left", func() bool {
		consumer := must[jetstream.Consumer](t)(js.Consumer(t.Context(), journal.Stream, "keeper-announce"))
		info := must[*jetstream.ConsumerInfo](t)(consumer.Info(t.Context()))
		return info.NumAckPending == 0 && info.NumPending == 0
	})
	if got := w.counted(t, "ray_executor_ends_set_aside_total"); got != 2 {
		t.Errorf("%v ends are set aside, want 2", got)
	}
	cancel()
	if err := await.Receive(t, "a value", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

// TestEndWithoutObjectStore has an object store without room: what was accepted can
// be ended all the same.
func TestEndWithoutObjectStore(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 2)
	_, js := journaltest.Dial(t, w.server.URL)
	bucket := must[jetstream.Stream](t)(js.Stream(t.Context(), "OBJ_"+journal.Results))
	config := bucket.CachedInfo().Config
	config.MaxBytes = 1 << 10
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), config))
	bulk := strings.Repeat("x", 700<<10)
	w.agent(t, "d1", 0, bulk)
	end := cancelled("d1")
	end.Results = []*pb.DeliberationResult{journaltest.Result(0, bulk), journaltest.Result(1, bulk)}
	if won, err := w.End(t.Context(), "d1", end, ""); err != nil || !won {
		t.Fatalf("cancelled: %v, %v", won, err)
	}
	history := w.history(t, "d1")
	if history.State != deliberation.Cancelled || history.Results()[0].GetProposal() != bulk {
		t.Errorf("it is %s with %d results", history.State, len(history.Results()))
	}
}
