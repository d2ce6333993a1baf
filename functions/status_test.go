package functions_test

import (
	"errors"
	"testing"

	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestStatusSaysWhatIsWaitedFor(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "d")
	status := func() *pb.GetDeliberationStatusResponse {
		t.Helper()
		got, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "d"}, functions.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	away := &pb.WorkerHeartbeat_Waiting{Endpoint: "vllm:80", Reason: "connection refused"}
	f.journal.beat(away)
	if got := status(); got.GetReason() != "" {
		t.Errorf("queued, and the reason is %q", got.GetReason())
	}
	f.journal.start("d")
	if got := status(); got.GetReason() != "waiting for model server vllm:80: connection refused" {
		t.Errorf("running, and the reason is %q", got.GetReason())
	}
	f.journal.beat()
	if got := status(); got.GetReason() != "" {
		t.Errorf("nothing is waited for, and the reason is %q", got.GetReason())
	}
	f.journal.beat(away)
	for i := range request("d").GetAgents() {
		f.journal.agent("d", i, "yes")
	}
	if got := status(); got.GetReason() != "" {
		t.Errorf("all agents have ended, and the reason is %q", got.GetReason())
	}
}

func TestStatusWithoutHeartbeats(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "d")
	f.journal.start("d")
	f.journal.noHeartbeats = errors.New("no bucket")
	got, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "d"}, functions.Origin{})
	if err != nil || got.GetStatus() != "running" || got.GetReason() != "" {
		t.Errorf("got %v, %v", got, err)
	}
}
