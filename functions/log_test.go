package functions_test

import (
	"encoding/json"
	"strings"
	"testing"

	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Each event of a deliberation has one line with the ids of the deliberation and the
// trace; no line has what the caller asked or why it cancels.
func TestEachEventHasOneLineWithoutPrompts(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const secret = "the-caller's-own-words"
	asked := request("d")
	asked.TaskDescription, asked.Role, asked.TaskId = secret, secret, secret
	asked.Agents[0].PromptTemplate, asked.Agents[0].SystemPrompt = secret, secret
	asked.Constraints = &pb.TaskConstraints{Metadata: map[string]string{"m": secret}}
	for range 2 { // the repeat is no event
		if _, err := f.Submit(t.Context(), asked, functions.Origin{TraceParent: trace}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d", Reason: secret}, functions.Origin{TraceParent: trace}); err != nil {
			t.Fatal(err)
		}
	}
	other := request("d")
	other.TaskDescription = secret
	if _, err := f.Submit(t.Context(), other, functions.Origin{}); err == nil {
		t.Fatal("another request with the same id is accepted")
	}
	lines := map[string]int{}
	for line := range strings.Lines(f.logs.String()) {
		var entry struct{ Msg, Deliberation, Trace, Pool string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		lines[strings.Join([]string{entry.Msg, entry.Deliberation, entry.Trace, entry.Pool}, " ")]++
	}
	id := strings.Split(trace, "-")[1]
	for _, want := range []string{"accepted d " + id + " default", "cancelled d " + id + " default"} {
		if lines[want] != 1 {
			t.Errorf("the log has %d lines %q, want 1: %v", lines[want], want, lines)
		}
	}
	if strings.Contains(f.logs.String(), secret) {
		t.Errorf("the log has the caller's words: %s", f.logs)
	}
}
