package e2e_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
)

func submittedBeforeThereWasARay(t *testing.T) {
	if earlyStatus.GetStatus() != "queued" {
		t.Errorf("without a Ray it was %s, not queued", earlyStatus.GetStatus())
	}
	expectState(t, sys.AwaitEnd(t, early), deliberation.Completed)
}

func threeAgentsComplete(t *testing.T) {
	submitted := request("three", agents(3)...)
	submitted.Agents[1].Model = behave(t, "poet", standin.Behaviour{Content: "a poem by {{.Model}}"})
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Completed)
	if len(status.GetResults()) != 3 {
		t.Fatalf("%d results, not 3: %v", len(status.GetResults()), status.GetResults())
	}
	for i, result := range status.GetResults() {
		if want := fmt.Sprintf("agent-%d", i); result.GetAgentId() != want {
			t.Errorf("result %d is of %s, not %s", i, result.GetAgentId(), want)
		}
		if result.GetProposal() == "" {
			t.Errorf("%s proposed nothing", result.GetAgentId())
		}
	}
	if got := status.GetResults()[1].GetProposal(); got != "a poem by poet" {
		t.Errorf("the agent with a model of its own proposed %q", got)
	}
	if status.GetResult().GetAgentId() != "agent-0" {
		t.Errorf("result is %s's, not the first agent's", status.GetResult().GetAgentId())
	}
	if status.GetAttempts() != 1 || status.GetStartedAt() == nil || status.GetCluster() == "" || status.GetPool() != "default" {
		t.Errorf("attempts, start, cluster or pool is amiss: %v", status)
	}
}

func oneAgentFails(t *testing.T) {
	submitted := request("one-fails", agents(3)...)
	submitted.Agents[0].Model = behave(t, "refusing", standin.Behaviour{Status: 400, Body: `{"error": {"message": "no such thing"}}`})
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Completed)
	failure := status.GetResults()[0].GetMetadata()
	if !strings.Contains(failure["error"], "no such thing") || failure["attempts"] != "1" {
		t.Errorf("the failed agent's metadata is %v", failure)
	}
	if status.GetResult().GetAgentId() != "agent-1" {
		t.Errorf("result is %s's, not the first completed agent's", status.GetResult().GetAgentId())
	}
}

func allAgentsFail(t *testing.T) {
	submitted := request("all-fail", agents(2)...)
	submitted.VllmModel = behave(t, "broken", standin.Behaviour{Status: 400, Body: `{"error": "out of order"}`})
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Failed)
	if !strings.Contains(status.GetErrorMessage(), "out of order") {
		t.Errorf("the reason is %q", status.GetErrorMessage())
	}
	if status.GetResult() != nil || len(status.GetResults()) != 2 {
		t.Errorf("result %v, results %v", status.GetResult(), status.GetResults())
	}
}

func emptyContentIsAFailure(t *testing.T) {
	submitted := request("empty", agents(1)...)
	submitted.VllmModel = behave(t, "mute", standin.Behaviour{Empty: true})
	expectState(t, sys.AwaitEnd(t, sys.Submit(t, submitted)), deliberation.Failed)
}

func retries(t *testing.T) {
	submitted := request("retries", agents(1)...)
	submitted.VllmModel = behave(t, "flaky", standin.Behaviour{Status: 500, FailFirst: 2, RetryAfter: "0"})
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Completed)
	if got := status.GetResult().GetMetadata()["attempts"]; got != "3" {
		t.Errorf("completed after %s calls, not 3", got)
	}
}

func noRetriesWhereNoneAreWanted(t *testing.T) {
	submitted := request("no-retries", agents(1)...)
	submitted.VllmModel = behave(t, "always-503", standin.Behaviour{Status: 503})
	submitted.Constraints = &pb.TaskConstraints{MaxRetries: new(int32)}
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Failed)
	if got := status.GetResults()[0].GetMetadata()["attempts"]; got != "1" {
		t.Errorf("failed after %s calls, not 1", got)
	}
}

func timeout(t *testing.T) {
	submitted := request("timeout", agents(1)...)
	submitted.VllmModel = behave(t, "silent", standin.Behaviour{Hang: true})
	submitted.Constraints = &pb.TaskConstraints{TimeoutSeconds: 2}
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Failed)
	if !strings.Contains(status.GetErrorMessage(), "timed out") {
		t.Errorf("the reason is %q", status.GetErrorMessage())
	}
	if took := status.GetEndedAt().AsTime().Sub(status.GetSubmittedAt().AsTime()); took < 2*time.Second {
		t.Errorf("it timed out after %s, before its 2 s", took)
	}
}

func timeoutWithAProposalCompletes(t *testing.T) {
	submitted := request("timeout-partial", agents(2)...)
	submitted.Agents[0].Model = behave(t, "silent-too", standin.Behaviour{Hang: true})
	submitted.Constraints = &pb.TaskConstraints{TimeoutSeconds: 2}
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Completed)
	if status.GetResult().GetAgentId() != "agent-1" || status.GetResults()[0].GetMetadata()["error"] == "" {
		t.Errorf("results are %v", status.GetResults())
	}
}

func templatesAndModels(t *testing.T) {
	submitted := request("template", &pb.Agent{
		Id: "a", Role: "QA", Model: "templated",
		PromptTemplate: `{agent_id} as {role}: {task_description} for {story}; {"json": {}}`,
	})
	submitted.Constraints = &pb.TaskConstraints{Metadata: map[string]string{"story": "{role} stands for itself"}}
	expectState(t, sys.AwaitEnd(t, sys.Submit(t, submitted)), deliberation.Completed)
	for _, seen := range model.Requests() {
		if seen.Model != "templated" {
			continue
		}
		if want := `a as QA: Describe template for {role} stands for itself; {"json": {}}`; seen.User != want {
			t.Errorf("the user message is %q, not %q", seen.User, want)
		}
		if !strings.Contains(seen.System, "QA") {
			t.Errorf("the system message does not name the role: %q", seen.System)
		}
		return
	}
	t.Error("the model was not asked")
}

func largeResultsComeWhole(t *testing.T) {
	submitted := request("large", agents(2)...)
	content := strings.Repeat("ten bytes ", 150_000)
	submitted.VllmModel = behave(t, "talkative", standin.Behaviour{Content: content})
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Completed)
	for _, result := range status.GetResults() {
		if strings.TrimSpace(result.GetProposal()) != strings.TrimSpace(content) {
			t.Errorf("%s's proposal came back with %d bytes, not %d", result.GetAgentId(), len(result.GetProposal()), len(content))
		}
	}
}

func cancelWhileRunning(t *testing.T) {
	submitted := request("cancel-running", agents(1)...)
	submitted.VllmModel = behave(t, "cancelled", standin.Behaviour{Hang: true})
	id := sys.Submit(t, submitted)
	awaitModel(t, "cancelled", func(seen standin.Request) bool { return true })
	if got := sys.Cancel(t, id, "no longer needed"); got != "cancelled" {
		t.Errorf("cancel answers %s", got)
	}
	awaitModel(t, "cancelled", func(seen standin.Request) bool { return seen.Outcome == standin.ClientClosed })
	status := sys.Status(t, id)
	expectState(t, status, deliberation.Cancelled)
	if status.GetErrorMessage() != "no longer needed" {
		t.Errorf("the reason is %q", status.GetErrorMessage())
	}
}

func cancelWhileQueued(t *testing.T) {
	blocker := request("blocker", agents(1)...)
	blocker.Pool, blocker.VllmModel = "narrow", behave(t, "blocking", standin.Behaviour{Hang: true})
	first := sys.Submit(t, blocker)
	awaitModel(t, "blocking", func(standin.Request) bool { return true })

	queued := request("cancel-queued", agents(1)...)
	queued.Pool, queued.VllmModel = "narrow", "never-asked"
	second := sys.Submit(t, queued)
	expectState(t, sys.Status(t, second), deliberation.Queued)
	if got := sys.Cancel(t, second, ""); got != "cancelled" {
		t.Errorf("cancel answers %s", got)
	}
	sys.Cancel(t, first, "")

	third := request("after-the-cancelled", agents(1)...)
	third.Pool = "narrow"
	expectState(t, sys.AwaitEnd(t, sys.Submit(t, third)), deliberation.Completed)
	status := sys.Status(t, second)
	if status.GetStatus() != "cancelled" || status.GetAttempts() != 0 {
		t.Errorf("the one that was cancelled in the queue is %s after %d attempts", status.GetStatus(), status.GetAttempts())
	}
	for _, seen := range model.Requests() {
		if seen.Model == "never-asked" {
			t.Error("a model was asked for a deliberation that was cancelled in the queue")
		}
	}
}

func cancelAfterTheEndChangesNothing(t *testing.T) {
	id := sys.Submit(t, request("cancel-late", agents(1)...))
	sys.AwaitEnd(t, id)
	if got := sys.Cancel(t, id, ""); got != "completed" {
		t.Errorf("cancel answers %s, not completed", got)
	}
}

func unknownID(t *testing.T) {
	if got := sys.Status(t, "nobody-knows").GetStatus(); got != "not_found" {
		t.Errorf("status is %s", got)
	}
	if got := sys.Cancel(t, "nobody-knows", ""); got != "not_found" {
		t.Errorf("cancel answers %s", got)
	}
}

func theSameEventIsTheSameDeliberation(t *testing.T) {
	submitted := request("redelivered", agents(1)...)
	first := sys.Submit(t, submitted)
	if second := sys.Submit(t, submitted); second != first {
		t.Errorf("redelivered, it is %s, not %s", second, first)
	}
	sys.AwaitEnd(t, first)
	if third := sys.Submit(t, submitted); third != first {
		t.Errorf("redelivered after its end, it is %s, not %s", third, first)
	}
}

func fiftyAtOnceAreOneDeliberation(t *testing.T) {
	submitted := request("fifty", agents(1)...)
	submitted.DeliberationId, submitted.VllmModel = "fifty-at-once", "fifty"
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			if id, err := sys.TrySubmit(t.Context(), submitted); err != nil || id != "fifty-at-once" {
				t.Errorf("submit answers %s, %v", id, err)
			}
		})
	}
	group.Wait()
	expectState(t, sys.AwaitEnd(t, "fifty-at-once"), deliberation.Completed)
	asked := 0
	for _, seen := range model.Requests() {
		if seen.Model == "fifty" {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("its one agent was asked %d times", asked)
	}
}

func theSameIDForAnotherRequestIsRefused(t *testing.T) {
	first := request("conflict", agents(1)...)
	first.DeliberationId = "conflict-1"
	sys.Submit(t, first)
	second := request("another", agents(1)...)
	second.DeliberationId = "conflict-1"
	expectRefusal(t, second, 422, "deliberation_id")
}

func badRequestsAreRefused(t *testing.T) {
	elsewhere := request("elsewhere", agents(1)...)
	elsewhere.VllmUrl = "http://169.254.169.254/latest"
	expectRefusal(t, elsewhere, 400, "vllm_url")
	undeclared := request("undeclared", agents(1)...)
	undeclared.Pool = "nowhere"
	expectRefusal(t, undeclared, 400, "pool")
	expectRefusal(t, request("nobody"), 400, "agents")
	huge := request("huge", agents(1)...)
	huge.TaskDescription = strings.Repeat("x", 1<<20)
	expectRefusal(t, huge, 413, "")
}

func twoReplicasShareTheLoad(t *testing.T) {
	behave(t, "shared", standin.Behaviour{Delay: 200 * time.Millisecond})
	replicas := make(map[string]int)
	for round := 0; len(replicas) < 2 && round < 10; round++ {
		var ids []string
		for i := range 20 {
			submitted := request(fmt.Sprintf("share-%d-%d", round, i), agents(1)...)
			submitted.VllmModel = "shared"
			ids = append(ids, sys.Submit(t, submitted))
		}
		for _, id := range ids {
			expectState(t, sys.AwaitEnd(t, id), deliberation.Completed)
			replicas[startedBy(t, id)]++
		}
	}
	if len(replicas) != 2 {
		t.Errorf("the replicas that ran them are %v, not two", replicas)
	}
}
