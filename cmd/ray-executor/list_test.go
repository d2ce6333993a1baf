package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// TestListAll prints every page, as one table or a line of JSON for each.
func TestListAll(t *testing.T) {
	t.Parallel()
	call, _ := setup(t)
	for i := range 5 {
		expect(t, call, "submitted", "submit", "Describe it", "--id", fmt.Sprint("d", i))
	}
	for _, flag := range [][]string{{"--all"}, {"--since", "1h"}} {
		printed, err := call(append([]string{"list", "--page-size", "2"}, flag...)...)
		if err != nil || strings.Count(printed, "DELIBERATION") != 1 || strings.Count(printed, "queued") != 5 || strings.Contains(printed, "--page-token") {
			t.Errorf("%v: %v, printed\n%s", flag, err, printed)
		}
	}
	printed, err := call("list", "--page-size", "2", "--all", "-o", "json")
	if err != nil || strings.Count(printed, "\n") < 3 || strings.Count(printed, `"status":"queued"`) != 5 {
		t.Errorf("%v, printed\n%s", err, printed)
	}
	if printed, err := call("list", "--since", "1ns"); err != nil || strings.Contains(printed, "queued") {
		t.Errorf("%v, printed\n%s", err, printed)
	}
	if _, err := call("list", "--since", "-1h"); exitCode(err) != exitUsage {
		t.Errorf("a negative age: %v", err)
	}
}

// TestCutAt ends the list at an age.
func TestCutAt(t *testing.T) {
	t.Parallel()
	page := &pb.ListDeliberationsResponse{NextPageToken: "7"}
	for second := int64(30); second > 0; second -= 10 {
		page.Deliberations = append(page.Deliberations, &pb.DeliberationSummary{SubmittedAt: timestamppb.New(time.Unix(second, 0))})
	}
	cutAt(page, time.Unix(5, 0))
	if len(page.GetDeliberations()) != 3 || page.GetNextPageToken() != "7" {
		t.Errorf("all are young: %v", page)
	}
	cutAt(page, time.Unix(20, 0))
	if len(page.GetDeliberations()) != 2 || page.GetNextPageToken() != "" {
		t.Errorf("one is older: %v", page)
	}
}

func TestShortAge(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]string{
		-time.Second: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m", 2 * time.Hour: "2h", 47 * time.Hour: "47h", 48 * time.Hour: "2d",
	} {
		if got := shortAge(age); got != want {
			t.Errorf("%v: %s, want %s", age, got, want)
		}
	}
}

// TestStatusHasFacts prints the pool, the cluster, the attempt, the times and the
// tokens.
func TestStatusHasFacts(t *testing.T) {
	t.Parallel()
	call, nats := setup(t)
	expect(t, call, "submitted", "submit", "Describe it", "--id", "d")
	expect(t, call, "  task cli, pool default\n  submitted 20", "status", "d")
	worker := journaltest.NewWorker(t, nats.URL)
	if _, _, err := worker.Started(t.Context(), "d", 1, time.Time{}, 0); err != nil {
		t.Fatal(err)
	}
	result := journaltest.Result(0, "a cache")
	if _, err := worker.Write(t.Context(), &pb.DeliberationCompleted{
		DeliberationId: "d", TaskId: "cli", Results: []*pb.DeliberationResult{result},
		Usage: &pb.Usage{PromptTokens: 12, CompletionTokens: 3, CachedTokens: 4, Requests: 1},
	}, "deliberation.done.*.d"); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"pool default, cluster here, attempt 1", ", started after ", ", ended after ", "tokens 12 prompt (4 cached), 3 completion; 1 calls of models"} {
		expect(t, call, words, "status", "d")
	}
}
