package e2e_test

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
	"rayexecutor/tests/await"
)

// TestWhatAWorkerHeldIsRunAgain kills the worker's replicas in the middle.
func TestWhatAWorkerHeldIsRunAgain(t *testing.T) {
	submitted := request("held", agents(2)...)
	submitted.Agents[1].Model = behave(t, "held", standin.Behaviour{Hang: true})
	submitted.Agents[0].Model = "asked-once"
	id := sys.Submit(t, submitted)
	sys.Await(t, id, func(status *pb.GetDeliberationStatusResponse) bool { return len(status.GetResults()) == 1 })
	awaitModel(t, "held", func(standin.Request) bool { return true })
	behave(t, "held", standin.Behaviour{})
	killWorkers(t)

	status := sys.AwaitEnd(t, id)
	expectState(t, status, deliberation.Completed)
	if status.GetAttempts() < 2 {
		t.Errorf("completed after %d attempts", status.GetAttempts())
	}
	asked := 0
	for _, seen := range model.Requests() {
		if seen.Model == "asked-once" {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("the agent whose proposal was recorded was asked %d times", asked)
	}
}

// TestStatisticsAreTheTruthBeforeAndAfterRestarts counts all that the tests
// above submitted, then restarts each part in turn.
func TestStatisticsAreTheTruthBeforeAndAfterRestarts(t *testing.T) {
	before := expectTruth(t)

	restart(t, "server", sys.StopServer, sys.StartServer)
	expectSame(t, "after the server's restart", before, expectTruth(t))

	restart(t, "NATS", sys.StopNATS, sys.StartNATS)
	expectSame(t, "after NATS was killed", before, expectTruth(t))

	killWorkers(t)
	expectState(t, sys.AwaitEnd(t, sys.Submit(t, request("after-restarts", agents(3)...))), deliberation.Completed)
	expectTruth(t)
}

func restart(t *testing.T, what string, stop func() error, start func(context.Context) error) {
	t.Helper()
	if err := stop(); err != nil {
		t.Fatalf("stop the %s: %v", what, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	if err := start(ctx); err != nil {
		t.Fatalf("start the %s: %v", what, err)
	}
}

// expectTruth compares the statistics with what each deliberation's status
// says, once all have ended, and returns them.
func expectTruth(t *testing.T) *pb.RayExecutorStats {
	t.Helper()
	want := &pb.RayExecutorStats{}
	for _, id := range sys.Accepted() {
		want.TotalDeliberations++
		status := sys.AwaitEnd(t, id)
		addUsage(want, status.GetUsage())
		switch deliberation.State(status.GetStatus()) {
		case deliberation.Completed:
			want.CompletedDeliberations++
		case deliberation.Failed:
			want.FailedDeliberations++
		case deliberation.Cancelled:
			want.CancelledDeliberations++
		default:
			t.Errorf("%s is %s", id, status.GetStatus())
		}
	}
	got := sys.Health(t).GetStats()
	if again := sys.Health(t).GetStats(); !proto.Equal(got, again) {
		t.Errorf("reading the statistics changed them: %v, then %v", got, again)
	}
	if got.GetAverageExecutionTimeMs() <= 0 {
		t.Errorf("the average execution time is %v ms", got.GetAverageExecutionTimeMs())
	}
	counts := proto.CloneOf(got)
	counts.AverageExecutionTimeMs = 0
	if !proto.Equal(counts, want) {
		t.Errorf("the statistics are %v, the truth is %v", counts, want)
	}
	return got
}

func addUsage(stats *pb.RayExecutorStats, usage *pb.Usage) {
	stats.PromptTokens += usage.GetPromptTokens()
	stats.CompletionTokens += usage.GetCompletionTokens()
	stats.CachedTokens += usage.GetCachedTokens()
	stats.ModelRequests += usage.GetRequests()
}

func expectSame(t *testing.T, when string, before, after *pb.RayExecutorStats) {
	t.Helper()
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("%s the statistics are %v; they were %v", when, after, before)
	}
}

// killWorkers kills the worker's replicas; Serve starts them again.
func killWorkers(t *testing.T) {
	t.Helper()
	if killed, err := sys.KillWorkers(t.Context()); err != nil || killed != 2 {
		t.Fatalf("killed %d worker replicas, not 2: %v", killed, err)
	}
}
