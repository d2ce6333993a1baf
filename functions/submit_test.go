package functions_test

import (
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestSubmit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	receipt, err := f.Submit(t.Context(), request("d"), functions.Origin{DeliberationID: "derived", TraceParent: trace})
	if err != nil || receipt.GetDeliberationId() != "d" || receipt.GetStatus() != "submitted" {
		t.Fatalf("got %v, %v", receipt, err)
	}
	if f.journal.traces[0] != trace {
		t.Error("the trace is lost")
	}
	again, err := f.Submit(t.Context(), request("d"), functions.Origin{})
	if err != nil || again.GetDeliberationId() != "d" || again.GetStatus() != "submitted" || len(f.journal.entries) != 1 {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	other := request("d")
	other.Constraints = &pb.TaskConstraints{TimeoutSeconds: 300} // what the default is, but not as it was sent
	_, err = f.Submit(t.Context(), other, functions.Origin{})
	refused(t, err, deliberation.Conflict, "deliberation_id")
	if deliberation.AsError(err).DeliberationID != "d" {
		t.Error("a conflict names the deliberation")
	}

	derived, err := f.Submit(t.Context(), request(""), functions.Origin{DeliberationID: "derived"})
	if err != nil || derived.GetDeliberationId() != "derived" {
		t.Errorf("got %v, %v", derived, err)
	}
	one, err := f.Submit(t.Context(), request(""), functions.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.Submit(t.Context(), request(""), functions.Origin{})
	if err != nil || one.GetDeliberationId() >= two.GetDeliberationId() {
		t.Errorf("fresh ids: %v, then %v, %v", one, two, err)
	}

	_, err = f.Submit(t.Context(), &pb.ExecuteDeliberationRequest{}, functions.Origin{})
	refused(t, err, deliberation.Invalid, "task_id")
	f.journal.set(away)
	_, err = f.Submit(t.Context(), request(""), functions.Origin{DeliberationID: "derived"})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
	if deliberation.AsError(err).DeliberationID != "derived" || away.DeliberationID != "" {
		t.Error("the outcome is unknown: the caller must learn the id, and the journal's error stay as it is")
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "d")
	for id, want := range map[string]string{"d": "queued", "x": "not_found"} {
		got, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: id}, functions.Origin{})
		if err != nil || got.GetStatus() != want || got.GetDeliberationId() != id {
			t.Errorf("%s: %v, %v", id, got, err)
		}
	}
	_, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "*"}, functions.Origin{})
	refused(t, err, deliberation.Invalid, "deliberation_id")
	f.journal.set(away)
	_, err = f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: "d"}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}
