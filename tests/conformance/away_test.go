package conformance_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
)

// withoutNATS is a house whose NATS has gone away.
func withoutNATS(t *testing.T) *house {
	h := setup(t)
	h.lambdaTime.Store(int64(1200 * time.Millisecond))
	if err := h.StopNATS(); err != nil {
		t.Fatal(err)
	}
	return h
}

// awayRows end with NATS back.
func awayRows() []row {
	var back sync.Once
	var rows []row
	for _, request := range []proto.Message{
		&pb.GetDeliberationStatusRequest{DeliberationId: "waits"}, &pb.CancelDeliberationRequest{DeliberationId: "waits"},
		&pb.GetStatusRequest{}, &pb.GetActiveJobsRequest{}, &pb.ListDeliberationsRequest{}, &pb.ListDeliberationsRequest{State: "queued"},
	} {
		name := method(request)
		if request, filtered := request.(*pb.ListDeliberationsRequest); filtered && request.GetState() != "" {
			name += " of a state"
		}
		rows = append(rows, row{name: name + " without NATS", run: func(t *testing.T, _ *house, f door) {
			ask(t, f, request, unavailable)
		}})
	}
	return append(rows,
		row{name: "ExecuteDeliberation without NATS, with the id under which to repeat it", run: func(t *testing.T, _ *house, f door) {
			id := waiting(f)
			if refusal := ask(t, f, request(id), unavailable); refusal.id != id || !strings.Contains(refusal.detail, "NATS") {
				t.Errorf("refused with %v", refusal)
			}
			if refusal := ask(t, f, request(""), unavailable); refusal.id == "" {
				t.Errorf("refused with %v", refusal)
			}
		}},
		row{name: "the same again, once NATS is back", run: func(t *testing.T, h *house, f door) {
			back.Do(func() {
				h.lambdaTime.Store(int64(invocationTime))
				if err := h.StartNATS(t.Context()); err != nil {
					t.Fatal(err)
				}
				h.Submit(t, request("nats-is-back")) // it waits until it is
			})
			submit(t, f, request(waiting(f)))
			recorded(t, h, waiting(f))
		}},
	)
}

func waiting(f door) string { return "waits-" + strings.ReplaceAll(f.name(), " ", "-") }

// fillBytes is how large each request is that fills the journal.
const fillBytes = 500_000

// filled is a house whose journal takes no more.
func filled(t *testing.T) *house {
	h := setup(t, "JOURNAL_MAX_BYTES=16777216")
	for i := range 100 {
		o, err := h.doors[0].call(t.Context(), call{request: sized(fmt.Sprintf("fills-%d", i), fillBytes)})
		if err != nil {
			t.Fatal(err)
		}
		if o.code == limitReached {
			return h
		}
	}
	t.Fatal("the journal never filled")
	return nil
}

func fullRows() []row {
	return []row{
		{name: "ExecuteDeliberation", run: func(t *testing.T, _ *house, f door) {
			id := fresh(t)
			if refusal := ask(t, f, sized(id, fillBytes), limitReached); refusal.id != id {
				t.Errorf("refused with %v", refusal)
			}
			ask(t, f, &pb.GetDeliberationStatusRequest{DeliberationId: id}, notFound)
		}},
		{name: "what was accepted, again", run: func(t *testing.T, _ *house, f door) {
			submit(t, f, sized("fills-0", fillBytes))
		}},
		{name: "what was accepted can be cancelled", run: func(t *testing.T, _ *house, f door) {
			cancel(t, f, "fills-1")
			status(t, f, "fills-1")
		}},
	}
}
