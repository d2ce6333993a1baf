package conformance_test

import (
	"context"
	"slices"
	"testing"

	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// A watcher is a door that streams a deliberation's events.
type watcher interface {
	door
	// watch hands on each event until the stream ends or each wants no more.
	watch(ctx context.Context, request *pb.WatchDeliberationRequest, each func(*pb.WatchDeliberationResponse) bool) (*outcome, error)
}

func watches(f door) bool { _, is := f.(watcher); return is }

// watch watches to the end and returns the events. seen, which may be nil,
// is called for each event.
func watch(t *testing.T, f door, id string, after uint64, want string, seen func(*pb.WatchDeliberationResponse) bool) []*pb.WatchDeliberationResponse {
	t.Helper()
	request := &pb.WatchDeliberationRequest{DeliberationId: id, AfterSequence: after}
	var events []*pb.WatchDeliberationResponse
	last := after
	o, err := f.(watcher).watch(t.Context(), request, func(event *pb.WatchDeliberationResponse) bool {
		if event.GetSequence() <= last {
			t.Errorf("after %d comes %d", last, event.GetSequence())
		}
		last = event.GetSequence()
		events = append(events, event)
		return seen == nil || seen(event)
	})
	if err != nil || o.code != want {
		t.Fatalf("%s: watching comes to %v, %v; not to %s", f.name(), o, err, want)
	}
	if want != ok && o.wire != f.wire(request, want, false) {
		t.Errorf("%s is answered with %s", want, o.wire)
	}
	return events
}

func kinds(events []*pb.WatchDeliberationResponse) []string {
	names := []string{}
	for _, event := range events {
		reflected := event.ProtoReflect()
		names = append(names, string(reflected.WhichOneof(reflected.Descriptor().Oneofs().ByName("event")).Name()))
	}
	return names
}

func expect(t *testing.T, events []*pb.WatchDeliberationResponse, want ...string) {
	t.Helper()
	if got := kinds(events); !slices.Equal(got, want) {
		t.Errorf("the events are %v, not %v", got, want)
	}
}

func watchRows() []row {
	return []row{
		{name: "watch: the whole story of one that has ended", about: watches, run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			started(t, h, id)
			won(t)(h.worker.Agent(t.Context(), id, 1, "a proposal"))
			result := journaltest.Result(1, "a proposal")
			won(t)(h.worker.Completed(t.Context(), id, result))
			events := watch(t, f, id, 0, ok, nil)
			expect(t, events, "requested", "started", "agent", "completed")
			same(t, "the request", events[0].GetRequested().GetRequest(), request(id))
			same(t, "the agent's result", events[2].GetAgent().GetResult(), result)
			same(t, "the end's result", events[3].GetCompleted().GetResults()[0], result)
		}},
		{name: "watch: as it happens, until a cancel", about: watches, run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			events := watch(t, f, id, 0, ok, func(event *pb.WatchDeliberationResponse) bool {
				switch {
				case event.GetRequested() != nil:
					started(t, h, id)
				case event.GetStarted() != nil:
					cancel(t, f, id)
				}
				return true
			})
			expect(t, events, "requested", "started", "cancelled")
			if reason := events[2].GetCancelled().GetReason(); reason != "not needed" {
				t.Errorf("the reason is %q", reason)
			}
		}},
		{name: "watch: resumed after a cut", about: watches, run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			first := watch(t, f, id, 0, ok, func(*pb.WatchDeliberationResponse) bool { return false })
			expect(t, first, "requested")
			started(t, h, id)
			cancel(t, f, id)
			rest := watch(t, f, id, first[0].GetSequence(), ok, nil)
			expect(t, rest, "started", "cancelled")
			expect(t, watch(t, f, id, rest[1].GetSequence(), ok, nil))
		}},
		{name: "watch: unknown", about: watches, run: func(t *testing.T, _ *house, f door) {
			expect(t, watch(t, f, "nobody-knows", 0, notFound, nil))
		}},
		{name: "watch: no id", about: watches, run: func(t *testing.T, _ *house, f door) {
			expect(t, watch(t, f, "a.b", 0, invalid, nil))
		}},
	}
}
