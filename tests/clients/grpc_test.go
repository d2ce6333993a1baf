package clients_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

// python calls as the clients of the Python service do.
type python struct {
	stubs   string
	address string
}

// newPython makes stubs with grpcio's own compiler, from the one proto of a folder.
func newPython(t *testing.T, proto, address string) *python {
	t.Helper()
	p := &python{stubs: t.TempDir(), address: address}
	var printed string
	run(t, &printed, nil, nil, tool("clients-venv", "bin", "python"), "-m", "grpc_tools.protoc",
		"-I", folder(proto), "--python_out", p.stubs, "--grpc_python_out", p.stubs, "ray_executor.proto")
	return p
}

func folder(path ...string) string {
	return filepath.Join(append([]string{system.Root(), "tests", "clients"}, path...)...)
}

func (p *python) call(t *testing.T, args ...string) map[string]any {
	t.Helper()
	var reply map[string]any
	run(t, &reply, nil, []string{"PYTHONPATH=" + p.stubs}, tool("clients-venv", "bin", "python"),
		append([]string{folder("client.py"), p.address}, args...)...)
	return reply
}

// The four RPCs of the Python service, by a client that knows no other, on the
// port of existing deployments and on the common one.
func TestPythonClientsOfTheOldService(t *testing.T) {
	t.Parallel()
	h := setup(t)
	for name, address := range map[string]string{
		"GRPC_PORT": "127.0.0.1:" + h.grpcPort, "PORT": strings.TrimPrefix(h.URL(), "http://"),
	} {
		t.Run(name, func(t *testing.T) { walk(t, h, newPython(t, "old", address)) })
	}
}

func walk(t *testing.T, h *house, client *python) {
	t.Helper()
	health := client.call(t, "health")
	if health["has_stats"] != true || !slices.Contains([]any{"healthy", "degraded"}, health["status"]) {
		t.Errorf("health is %v", health)
	}
	receipt := client.call(t, "submit", `{"task_id": "TASK-1", "task_description": "Añade un botón", "role": "DEV",
		"constraints": {"story_id": "S-1", "plan_id": "P-1", "timeout_seconds": 60, "max_retries": 3, "metadata": {"k": "v"}},
		"agents": [{"id": "agent-dev-001", "role": "DEV", "model": "m", "prompt_template": "{task_description} {k}"}, {"id": "agent-dev-002"}],
		"vllm_url": "http://127.0.0.1:9", "vllm_model": "m"}`)
	id, _ := receipt["deliberation_id"].(string)
	if receipt["status"] != "submitted" || id == "" {
		t.Fatalf("the receipt is %v", receipt)
	}
	if status := client.call(t, "status", id); status["status"] != "queued" || status["error_message"] != "" {
		t.Errorf("the status is %v", status)
	}
	want := map[string]any{
		"job_id": id, "name": "deliberation-" + id, "status": "queued", "submission_id": id, "role": "DEV", "task_id": "TASK-1",
	}
	jobs, _ := client.call(t, "jobs")["jobs"].([]any)
	if len(jobs) != 1 {
		t.Fatalf("the jobs are %v", jobs)
	}
	job, _ := jobs[0].(map[string]any)
	if job["start_time"] == "" || job["runtime"] == "" {
		t.Errorf("the job has no time: %v", job)
	}
	delete(job, "start_time")
	delete(job, "runtime")
	if !reflect.DeepEqual(job, want) {
		t.Errorf("the job is %v, not %v", job, want)
	}
	completes(t, h, client, id)
	if status := client.call(t, "status", "nobody-knows"); status["status"] != "not_found" {
		t.Errorf("an unknown id is %v", status)
	}
	if refused := client.call(t, "submit", `{"task_id": "TASK-2"}`); refused["code"] != "INVALID_ARGUMENT" {
		t.Errorf("half a request is answered %v", refused)
	}
	after := client.call(t, "health")
	if counted(after, "completed") != counted(health, "completed")+1 || counted(after, "total") != counted(health, "total")+1 {
		t.Errorf("the statistics were %v, and are %v", health, after)
	}
}

func completes(t *testing.T, h *house, client *python, id string) {
	t.Helper()
	if _, stored, err := h.worker.Started(t.Context(), id, 1, time.Time{}, 0); !stored || err != nil {
		t.Fatal(stored, err)
	}
	if status := client.call(t, "status", id); status["status"] != "running" {
		t.Errorf("the status is %v", status)
	}
	result := journaltest.Result(1, "Un botón")
	if stored, err := h.worker.Completed(t.Context(), id, journaltest.Result(0, ""), result); !stored || err != nil {
		t.Fatal(stored, err)
	}
	status := client.call(t, "status", id)
	got, _ := status["result"].(map[string]any)
	if status["status"] != "completed" || got["proposal"] != "Un botón" || got["agent_id"] != result.GetAgentId() || got["score"] != 0.0 {
		t.Errorf("the status is %v", status)
	}
}

// counted is a count of the statistics; JSON has 64 bits as text.
func counted(health map[string]any, state string) int {
	stats, _ := health["stats"].(map[string]any)
	count := 0
	for _, digit := range stats[state+"_deliberations"].(string) {
		count = count*10 + int(digit-'0')
	}
	return count
}

// The same calls by a client of newer fleets, which has stubs of their package
// alone; and the responses of the agents, which have the task_id of the metadata.
func TestPythonClientsOfNewerFleets(t *testing.T) {
	t.Parallel()
	h := setup(t, "KEEPER=true", "AGENT_RESPONSES=true")
	for name, address := range map[string]string{
		"GRPC_PORT": "127.0.0.1:" + h.grpcPort, "PORT": strings.TrimPrefix(h.URL(), "http://"),
	} {
		t.Run(name, func(t *testing.T) {
			client := newPython(t, "fleet", address)
			walk(t, h, client)
			reviews(t, h, client)
		})
	}
}

// response is the message about an agent, as a consumer reads it.
type response struct {
	CorrelationID string `json:"correlation_id"`
	Payload       struct {
		TaskID      string `json:"task_id"`
		Constraints struct {
			StoryID  string            `json:"story_id"`
			PlanID   string            `json:"plan_id"`
			Metadata map[string]string `json:"metadata"`
		} `json:"constraints"`
	} `json:"payload"`
}

func reviews(t *testing.T, h *house, client *python) {
	t.Helper()
	receipt := client.call(t, "review", `{"task_id": "ceremony-1:story-S-1:role-QA", "task_description": "Review", "role": "QA",
		"constraints": {"story_id": "S-1", "timeout_seconds": 60, "max_retries": 3, "metadata": {"task_id": "TASK-9"}},
		"agents": [{"id": "agent-qa-001", "role": "QA"}], "vllm_url": "http://127.0.0.1:9", "vllm_model": "m"}`)
	id, _ := receipt["deliberation_id"].(string)
	if receipt["task_id"] != "ceremony-1:story-S-1:role-QA" || receipt["status"] != "submitted" || receipt["message"] == "" || id == "" {
		t.Fatalf("the receipt is %v", receipt)
	}
	if won, err := h.worker.Completed(t.Context(), id, &pb.DeliberationResult{AgentId: "agent-qa-001", Proposal: "Fine"}); !won || err != nil {
		t.Fatal(won, err)
	}
	var got response
	await.True(t, "the agent's response", func() bool {
		messages := journaltest.Messages(t, h.NATSURL(), "AGENT_RESPONSES", "agent.response.completed")
		return slices.ContainsFunc(messages, func(message *jetstream.RawStreamMsg) bool {
			got = response{}
			return json.Unmarshal(message.Data, &got) == nil && got.CorrelationID == id
		})
	})
	constraints := got.Payload.Constraints
	if got.Payload.TaskID != "TASK-9" || constraints.StoryID != "S-1" || constraints.PlanID != "" ||
		!maps.Equal(constraints.Metadata, map[string]string{"task_id": "TASK-9", "story_id": "S-1"}) {
		t.Errorf("the response is %+v", got)
	}
}

// grpcurl knows nothing: it asks the server what there is.
func TestGRPCURL(t *testing.T) {
	t.Parallel()
	h := setup(t)
	address := strings.TrimPrefix(h.URL(), "http://")
	grpcurl := func(into any, args ...string) {
		t.Helper()
		run(t, into, nil, nil, tool("grpcurl"), append([]string{"-plaintext", "-max-time", "20"}, args...)...)
	}
	var services, methods string
	grpcurl(&services, address, "list")
	grpcurl(&methods, address, "list", "ray_executor.v1.RayExecutorService")
	if !strings.Contains(services, "fleet.ray_executor.v1.RayExecutorService\n") {
		t.Errorf("the services are %s", services)
	}
	if !strings.Contains(services, "ray_executor.v1.RayExecutorService\n") || !strings.Contains(services, "grpc.health.v1.Health\n") {
		t.Errorf("the services are %s", services)
	}
	if lines := strings.Fields(methods); len(lines) != 7 {
		t.Errorf("the methods are %v", lines)
	}
	var health struct{ Status string }
	grpcurl(&health, address, "grpc.health.v1.Health/Check")
	if health.Status != "SERVING" {
		t.Errorf("health is %+v", health)
	}
	grpcurl(&health, "-d", `{"service": "ray_executor.v1.RayExecutorService"}`, address, "grpc.health.v1.Health/Check")
	if health.Status != "SERVING" {
		t.Errorf("health is %+v", health)
	}
	var described string
	grpcurl(&described, address, "describe", "fleet.ray_executor.v1.BacklogReviewTaskConstraints")
	if !strings.Contains(described, "map<string, string> metadata = 4;") {
		t.Errorf("reflection describes %s", described)
	}
	grpcurl(&health, "-d", `{"service": "fleet.ray_executor.v1.RayExecutorService"}`, address, "grpc.health.v1.Health/Check")
	if health.Status != "SERVING" {
		t.Errorf("health is %+v", health)
	}
	var receipt struct{ DeliberationID, Status string }
	grpcurl(&receipt, "-d", `{"task_id": "t", "task_description": "d", "role": "DEV", "agents": [{"id": "a"}], "deliberation_id": "curled"}`,
		address, "ray_executor.v1.RayExecutorService/ExecuteDeliberation")
	if receipt.Status != "submitted" {
		t.Errorf("the receipt is %+v", receipt)
	}
	var cancelled struct{ Status string }
	grpcurl(&cancelled, "-d", `{"deliberation_id": "curled"}`, address, "ray_executor.v1.RayExecutorService/CancelDeliberation")
	if cancelled.Status != "cancelled" {
		t.Errorf("cancel answers %+v", cancelled)
	}
	var watched string
	grpcurl(&watched, "-d", `{"deliberation_id": "curled"}`, address, "ray_executor.v1.RayExecutorService/WatchDeliberation")
	if strings.Count(watched, `"sequence"`) != 2 || !strings.Contains(watched, `"cancelled": {`) {
		t.Errorf("watched is %s", watched)
	}
}
