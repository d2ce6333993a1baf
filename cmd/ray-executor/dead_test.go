package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// TestDead lists and shows a dead letter, and submits it again, once.
func TestDead(t *testing.T) {
	t.Parallel()
	call, nats := setup(t)
	operate := func(args ...string) (string, error) {
		return runProgram(t.Context(), []string{"NATS_URL=" + nats.URL, "LOG_LEVEL=ERROR"}, args...)
	}
	if _, err := call("submit", "Name three risks", "--id", "d1", "--agent", "a0"); err != nil {
		t.Fatal(err)
	}
	writer := journaltest.Connect(t, nats.URL)
	if _, err := writer.End(t.Context(), "d1", &pb.DeliberationFailed{
		DeliberationId: "d1", TaskId: "cli", ErrorMessage: "given up after 5 attempts", GivenUp: true,
	}, ""); err != nil {
		t.Fatal(err)
	}
	awaitPrinted(t, operate, "given up after 5 attempts", "dead", "list")
	expect(t, operate, `"deliberation_id":"d1","task_id":"cli","pool":"default"`, "dead", "list", "-o", "json")
	expect(t, operate, `"task_description": "Name three risks"`, "dead", "show", "d1")
	printed, err := operate("dead", "show", "d1", "-o", "json")
	var document struct{ Request, Status map[string]any }
	if err != nil || json.Unmarshal([]byte(printed), &document) != nil || document.Request["role"] != "DEV" || document.Status["status"] != "failed" {
		t.Errorf("shown is %s, %v", printed, err)
	}
	if _, err := operate("dead", "show", "other"); err == nil || !strings.Contains(err.Error(), "dead list") {
		t.Errorf("an unknown one is reported as %v", err)
	}

	printed, err = operate("dead", "retry", "d1", "--server", "http://127.0.0.1:9")
	if err == nil || !strings.Contains(printed, "d1 was refused") || !strings.Contains(err.Error(), "1 of 1 were refused") {
		t.Errorf("without a server: %s, %v", printed, err)
	}
	expect(t, call, "d1 submitted as d1-retry", "dead", "retry", "--all")
	expect(t, call, "d1-retry queued", "status", "d1-retry")
	if printed, err := operate("dead", "list"); err != nil || strings.Contains(printed, "d1") {
		t.Errorf("left is %s, %v", printed, err)
	}
	if _, err := call("dead", "retry", "d1", "--all"); err == nil || !strings.Contains(err.Error(), "or --all") {
		t.Errorf("one and all: %v", err)
	}
}

func TestRetryDeadLetters(t *testing.T) {
	t.Parallel()
	from := journaltest.Connect(t, journaltest.Start(t).URL)
	for _, id := range []string{"d1", "d2", "d3"} {
		history := deliberation.Fold([]deliberation.Entry{{Event: journaltest.Record(id, 1, 300)}})
		if err := from.StoreDeadLetter(t.Context(), history); err != nil {
			t.Fatal(err)
		}
	}
	var submitted []*pb.ExecuteDeliberationRequest
	submit := func(_ context.Context, request *pb.ExecuteDeliberationRequest) error {
		if request.GetDeliberationId() == "d2-retry" {
			return errors.New("the server is away")
		}
		submitted = append(submitted, request)
		return nil
	}
	reported := map[string]error{}
	report := func(id, anew string, refused error) {
		if anew != id+"-retry" {
			t.Errorf("%s is submitted as %s", id, anew)
		}
		reported[id] = refused
	}
	if err := retryDeadLetters(t.Context(), from, "nobody", submit, report); deliberation.AsError(err).Code != deliberation.NotFound {
		t.Errorf("an unknown id: %v", err)
	}
	for _, id := range []string{"d1", ""} {
		if err := retryDeadLetters(t.Context(), from, id, submit, report); err != nil {
			t.Fatal(err)
		}
	}
	if len(submitted) != 2 || submitted[0].GetDeliberationId() != "d1-retry" || submitted[0].GetTaskDescription() != "Decide." {
		t.Errorf("submitted are %v", submitted)
	}
	if reported["d1"] != nil || reported["d3"] != nil || reported["d2"] == nil || len(reported) != 3 {
		t.Errorf("reported are %v", reported)
	}
	if list, err := from.ListDeadLetters(t.Context()); err != nil || len(list) != 1 || list[0].ID != "d2" {
		t.Errorf("left is %v, %v", list, err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := retryDeadLetters(stopped, from, "d2", submit, report); err == nil || strings.Contains(err.Error(), "d2") {
		t.Errorf("a retry that is stopped says %v", err)
	}
}
