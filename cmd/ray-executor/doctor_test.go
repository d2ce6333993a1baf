package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestDoctorJSON has a reason and a remedy for each fault.
func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	const nowhere = "127.0.0.1:9"
	environ := []string{"NATS_URL=nats://" + nowhere, "RAY_ADDRESS=http://" + nowhere, "VLLM_URL=http://" + nowhere, "RAY_EXECUTOR_SERVER=http://" + nowhere, "LOG_LEVEL=ERROR"}
	printed, err := runProgram(t.Context(), environ, "doctor", "-o", "json")
	if exitCode(err) != exitFailed {
		t.Errorf("it ended with %v", err)
	}
	remedies := map[string]string{"server": "--server", "journal": "NATS_URL", "worker": "RAY_ADDRESS", "model": "start the model server"}
	for line := range strings.Lines(printed) {
		var one finding
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if one.OK || one.Reason == "" || !strings.Contains(one.Remedy, remedies[one.Check]) || strings.Contains(one.Reason, one.Remedy) {
			t.Errorf("%+v", one)
		}
		delete(remedies, one.Check)
	}
	if len(remedies) > 0 {
		t.Errorf("it did not check %v: %s", remedies, printed)
	}
}
