package e2e_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

// TestDevUsesWhatIsThere runs `ray-executor dev` where NATS_URL, RAY_ADDRESS
// and VLLM_URL name this suite's: it starts none of its own.
func TestDevUsesWhatIsThere(t *testing.T) {
	command := exec.Command(filepath.Join(system.Root(), "bin", "ray-executor"), "dev", "--venv", "/nowhere", "--data", t.TempDir())
	command.Env = append(sys.Environ(), "PORT=0")
	output := &await.Output{}
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	output.Wait(t, "Ctrl-C stops everything")
	if err := command.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil {
		t.Errorf("after Ctrl-C it ended with %v", err)
	}
	text := output.String()
	for _, own := range []string{"NATS 2.", "stand-in model", "Ray on", "starting Ray"} {
		if strings.Contains(text, own) {
			t.Errorf("it started a part of its own (%q):\n%s", own, text)
		}
	}
	match := regexp.MustCompile(`submitted deliberation (\S+) with three agents`).FindStringSubmatch(text)
	if match == nil || !strings.Contains(text, "agent tester proposed in") {
		t.Fatalf("it sent no deliberation through:\n%s", text)
	}
	sys.Note(match[1])
	expectState(t, sys.AwaitEnd(t, match[1]), deliberation.Completed)
}

// workerNeedsNoInternet looks at what Serve was told: the package comes from
// the cluster itself, and nothing is installed.
func workerNeedsNoInternet(t *testing.T) {
	response, err := sys.Ray().HTTP().Get(sys.Ray().Address() + "/api/serve/applications/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var serve struct {
		Applications map[string]struct {
			Config struct {
				RuntimeEnv map[string]any `json:"runtime_env"`
			} `json:"deployed_app_config"`
		} `json:"applications"`
	}
	if err := json.NewDecoder(response.Body).Decode(&serve); err != nil {
		t.Fatal(err)
	}
	environment := serve.Applications["ray-executor"].Config.RuntimeEnv
	if uri, ok := environment["working_dir"].(string); len(environment) != 1 || !ok || !strings.HasPrefix(uri, "gcs://") {
		t.Errorf("the worker's runtime_env is %v", environment)
	}
}
