// Package function tests the root of the repository as Knative's users have
// it: built and run by the real func CLI, called by `func invoke`.
package function_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/funccli"
	"rayexecutor/tests/system"
)

// setup runs the function against a real NATS, without a Ray.
func setup(t *testing.T) (*funccli.Function, *system.System) {
	t.Helper()
	sys := system.Make(t, system.Options{})
	if err := sys.StartJournal(t.Context()); err != nil {
		t.Fatal(err)
	}
	function := funccli.Run(t, system.Root(), "",
		"NATS_URL="+sys.NATSURL(), "VLLM_URL=http://127.0.0.1:9", "VLLM_MODEL=none", "RAY_ADDRESS=http://127.0.0.1:9")
	sys.Serve(function.URL)
	return function, sys
}

func TestFunc(t *testing.T) {
	t.Parallel()
	function, sys := setup(t)
	t.Run("invoke in JSON", func(t *testing.T) { invokeJSON(t, function) })
	t.Run("invoke in protobuf", func(t *testing.T) { invokeProtobuf(t, function) })
	t.Run("every event is answered", func(t *testing.T) { everyEventIsAnswered(t, sys) })
}

// invokeJSON submits, asks and cancels as the README's reader does.
func invokeJSON(t *testing.T, function *funccli.Function) {
	event := func(id, message, data string) map[string]any {
		printed := funccli.Invoke(t, function.URL, "-f", "cloudevent", "--source", "/tests", "--id", id,
			"--type", "ray_executor.v1."+message+"Request", "--content-type", "application/json", "--data", data)
		if !strings.Contains(printed, "type: ray_executor.v1."+message+"Response\n") {
			t.Fatalf("the reply to %s: %s", message, printed)
		}
		var reply map[string]any
		if err := json.Unmarshal(funccli.Data(printed), &reply); err != nil {
			t.Fatalf("%v: %s", err, printed)
		}
		return reply
	}
	receipt := event("1", "ExecuteDeliberation",
		`{"task_id": "t", "task_description": "d", "role": "DEV", "agents": [{"id": "a"}], "deliberationId": "invoked"}`)
	if receipt["status"] != "submitted" || receipt["deliberation_id"] != "invoked" {
		t.Errorf("submit answers %v", receipt)
	}
	if status := event("2", "GetDeliberationStatus", `{"deliberation_id": "invoked"}`); status["status"] != "queued" {
		t.Errorf("status answers %v", status)
	}
	if cancelled := event("3", "CancelDeliberation", `{"deliberation_id": "invoked"}`); cancelled["status"] != "cancelled" {
		t.Errorf("cancel answers %v", cancelled)
	}
	if status := event("4", "GetDeliberationStatus", `{"deliberation_id": "invoked"}`); status["status"] != "cancelled" {
		t.Errorf("status answers %v", status)
	}
}

func invokeProtobuf(t *testing.T, function *funccli.Function) {
	event := func(id string, request, reply proto.Message) {
		data, err := proto.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		printed := funccli.Invoke(t, function.URL, "-f", "cloudevent", "--source", "/tests", "--id", id,
			"--type", string(request.ProtoReflect().Descriptor().FullName()),
			"--content-type", "application/protobuf", "--file", file)
		if !strings.Contains(printed, "type: "+string(reply.ProtoReflect().Descriptor().FullName())+"\n") {
			t.Fatalf("the reply: %s", printed)
		}
		if err := proto.Unmarshal(funccli.Data(printed), reply); err != nil {
			t.Fatalf("%v: %q", err, printed)
		}
	}
	var receipt pb.ExecuteDeliberationResponse
	event("5", &pb.ExecuteDeliberationRequest{
		TaskId: "t", TaskDescription: "d", Role: "DEV", Agents: []*pb.Agent{{Id: "a"}},
	}, &receipt)
	var status pb.GetDeliberationStatusResponse
	event("6", &pb.GetDeliberationStatusRequest{DeliberationId: receipt.GetDeliberationId()}, &status)
	if receipt.GetStatus() != "submitted" || status.GetStatus() != "queued" {
		t.Errorf("submit answers %v, then status %v", &receipt, &status)
	}
	var cancelled pb.CancelDeliberationResponse
	event("7", &pb.CancelDeliberationRequest{DeliberationId: receipt.GetDeliberationId()}, &cancelled)
	if cancelled.GetStatus() != "cancelled" {
		t.Errorf("cancel answers %v", &cancelled)
	}
}

// everyEventIsAnswered sends 60,000 events from 32 callers: a fifth submits,
// the rest ask. The stock CloudEvents middleware wedges at such a load. A 503,
// on a machine whose disk stalls, is repeated as callers do.
func everyEventIsAnswered(t *testing.T, sys *system.System) {
	const callers, each = 32, 60_000 / 32
	var answered atomic.Int64
	var group sync.WaitGroup
	for caller := range callers {
		group.Go(func() {
			for i := range each {
				err := oneEvent(t, sys, caller, i)
				for tries := 0; tries < 5 && unavailable(err); tries++ {
					err = oneEvent(t, sys, caller, i)
				}
				if err != nil {
					t.Errorf("caller %d, event %d: %v", caller, i, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	group.Wait()
	if answered.Load() != callers*each {
		t.Errorf("%d of %d events were answered", answered.Load(), callers*each)
	}
}

func unavailable(err error) bool {
	refusal, ok := errors.AsType[*system.Refusal](err)
	return ok && refusal.Status == http.StatusServiceUnavailable
}

func oneEvent(t *testing.T, sys *system.System, caller, i int) error {
	id := fmt.Sprintf("load-%d-%d", caller, i/5)
	if i%5 == 0 {
		var receipt pb.ExecuteDeliberationResponse
		err := sys.Call(t.Context(), id, &pb.ExecuteDeliberationRequest{
			TaskId: "t", TaskDescription: "d", Role: "DEV", DeliberationId: id, Agents: []*pb.Agent{{Id: "a"}},
		}, &receipt)
		if err == nil && receipt.GetDeliberationId() != id {
			err = fmt.Errorf("answered for %s", receipt.GetDeliberationId())
		}
		return err
	}
	var status pb.GetDeliberationStatusResponse
	err := sys.Call(t.Context(), fmt.Sprintf("%s-%d", id, i), &pb.GetDeliberationStatusRequest{DeliberationId: id}, &status)
	if err == nil && (status.GetDeliberationId() != id || status.GetStatus() != "queued") {
		err = errors.New("answered " + status.String())
	}
	return err
}
