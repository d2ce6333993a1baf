package e2e_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

func expectState(t *testing.T, status *pb.GetDeliberationStatusResponse, want deliberation.State) {
	t.Helper()
	if status.GetStatus() != string(want) {
		t.Fatalf("%s (%s) is %s, not %s: %s; %v", status.GetDeliberationId(), status.GetTaskId(),
			status.GetStatus(), want, status.GetErrorMessage(), status.GetResults())
	}
}

func expectRefusal(t *testing.T, request *pb.ExecuteDeliberationRequest, status int, field string) {
	t.Helper()
	_, err := sys.TrySubmit(t.Context(), request)
	refusal, ok := errors.AsType[*system.Refusal](err)
	if !ok || refusal.Status != status || field != "" && refusal.Field != field {
		t.Errorf("%s is answered %v, not %d for %s", request.GetTaskId(), err, status, field)
	}
}

// awaitModel waits until the model server has seen a request for a model that
// is as wanted.
func awaitModel(t *testing.T, name string, wanted func(standin.Request) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	err := model.Wait(ctx, func(standin.Snapshot) bool {
		for _, seen := range model.Requests() {
			if seen.Model == name && wanted(seen) {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatalf("model %s has not seen it: %v", name, err)
	}
}

// startedBy reads from the journal which replica started a deliberation last.
func startedBy(t *testing.T, id string) string {
	t.Helper()
	conn, err := sys.NATS()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "DELIBERATIONS")
	if err != nil {
		t.Fatal(err)
	}
	message, err := stream.GetLastMsgForSubject(t.Context(), "deliberation.started.*."+id)
	if err != nil {
		t.Fatalf("%s was not started: %v", id, err)
	}
	var started pb.DeliberationStarted
	if err := proto.Unmarshal(message.Data, &started); err != nil {
		t.Fatal(err)
	}
	return started.GetReplica()
}
