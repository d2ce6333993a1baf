package functions_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/functions"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

// TestTheRepliesOfABatchAreBounded: what does not fit is refused for good, in
// its place; a submission among them is answered that it was accepted.
func TestTheRepliesOfABatchAreBounded(t *testing.T) {
	t.Parallel()
	for name, limits := range map[string]gate.Limits{"with memory": gate.For(1 << 40), "in a small pod": gate.For(0)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			boundedBatch(t, setup(t, func(o *functions.Options) { o.Limits = limits }))
		})
	}
}

func boundedBatch(t *testing.T, f *fixture) {
	t.Helper()
	f.submit(t, "large")
	_, err := f.journal.End(t.Context(), "large", &pb.DeliberationCancelled{
		DeliberationId: "large", Results: []*pb.DeliberationResult{{AgentId: "a", Proposal: strings.Repeat("x", 1<<20)}},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	var asked []event.Event
	for i := range 10 {
		asked = append(asked, asEvent(t, fmt.Sprint(i), &pb.GetDeliberationStatusRequest{DeliberationId: "large"}))
	}
	asked = append(asked, asEvent(t, "last", request("new")))
	got := f.serve(batch(t, asked...))
	if size := got.Body.Len(); size > 12<<20 {
		t.Errorf("the batch is answered with %d MB", size>>20)
	}
	kinds := make(map[string]int)
	replies := readBatch(t, got)
	for _, reply := range replies {
		kinds[reply.Type()]++
		var problem pb.Error
		if reply.Type() == "ray_executor.v1.Error" && (events.Decode(&reply, &problem) != nil || problem.GetCode() != string(deliberation.TooLarge)) {
			t.Errorf("it is refused with %v", &problem)
		}
	}
	if kinds["ray_executor.v1.GetDeliberationStatusResponse"] != 3 || kinds["ray_executor.v1.Error"] != 7 {
		t.Errorf("the replies are %v", kinds) // 2 MB each: the result is in two fields, in base64
	}
	if last := replies[len(replies)-1]; last.Type() != "ray_executor.v1.ExecuteDeliberationResponse" {
		t.Errorf("the submission is answered by %s", last.Type())
	}
}

// TestStreamsAboveTheLimit are 429 over REST and RESOURCE_EXHAUSTED over gRPC;
// what is asked once is answered all the same.
func TestStreamsAboveTheLimit(t *testing.T) {
	t.Parallel()
	limits := gate.For(0)
	limits.Streams = 1
	d := open(t, func(o *functions.Options) { o.Limits = limits })
	d.submit(t, "d")
	watch := d.url + "/v1/deliberations/d/events"
	first, err := d.http.Get(watch)
	if err != nil || first.StatusCode != http.StatusOK {
		t.Fatal(first, err)
	}
	second, err := d.http.Get(watch)
	if err != nil || second.StatusCode != http.StatusTooManyRequests || second.Header.Get("Retry-After") == "" {
		t.Fatal(second, err)
	}
	second.Body.Close()
	stream, err := d.client().WatchDeliberation(t.Context(), &pb.WatchDeliberationRequest{DeliberationId: "d"})
	if err != nil {
		t.Fatal(err)
	}
	if stream.Receive() || !strings.Contains(fmt.Sprint(stream.Err()), "resource_exhausted") {
		t.Errorf("another stream over RPC: %v", stream.Err())
	}
	stream.Close()
	if _, err := d.client().GetDeliberationStatus(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "d"}); err != nil {
		t.Error(err)
	}
	first.Body.Close()
}
