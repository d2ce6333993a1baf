//go:build vllm

package vllm_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
	"rayexecutor/tests/vllm"
)

// The tests share one vLLM: it takes a minute to start.
var server *vllm.Server

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	server, err = vllm.Launch(context.Background())
	if err != nil {
		return 1, err
	}
	defer func() {
		if stopping := server.Stop(); stopping != nil {
			code, err = 1, stopping
		}
	}()
	return m.Run(), nil
}

// setup starts the whole system, its Ray nodes with vLLM's key.
func setup(t *testing.T) *system.System {
	t.Helper()
	sys := system.Make(t, system.Options{
		ModelURL: server.URL, Model: server.Model, Settings: []string{"VLLM_API_KEY=" + server.APIKey},
	})
	for _, step := range []func(context.Context) error{sys.StartNATS, sys.StartRay, sys.StartServer} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

// TestDeliberations is the core of tests/e2e on a real vLLM.
func TestDeliberations(t *testing.T) {
	sys := setup(t)
	t.Run("completed with the model's own text", func(t *testing.T) { completes(t, sys) })
	t.Run("sampling parameters are the model's", func(t *testing.T) { samples(t, sys) })
	t.Run("usage equals the server's counters", func(t *testing.T) { countsTokens(t, sys) })
	t.Run("proposals have the form that was asked for", func(t *testing.T) { fitsForms(t, sys) })
	t.Run("agents of a role share what is computed of their prompts", func(t *testing.T) { sharesPrefixes(t, sys) })
	t.Run("an unknown model is the agent's failure", func(t *testing.T) { unknownModel(t, sys) })
	t.Run("a cancel stops generation", func(t *testing.T) { cancelStopsGeneration(t, sys) })
	t.Run("a deadline stops generation", func(t *testing.T) { deadlineStopsGeneration(t, sys) })
	t.Run("the key stays on the cluster", func(t *testing.T) { keyStaysOnTheCluster(t, sys) })
}

func request(task, description string, models ...string) *pb.ExecuteDeliberationRequest {
	submitted := &pb.ExecuteDeliberationRequest{TaskId: task, TaskDescription: description, Role: "DEV"}
	for i, model := range models {
		submitted.Agents = append(submitted.Agents, &pb.Agent{Id: fmt.Sprintf("agent-%d", i), Model: model})
	}
	return submitted
}

func completes(t *testing.T, sys *system.System) {
	status := sys.AwaitEnd(t, sys.Submit(t, request("three", "Build a login page", "", "", "")))
	if status.GetStatus() != "completed" || len(status.GetResults()) != 3 {
		t.Fatalf("it is %v", status)
	}
	for _, result := range status.GetResults() {
		metadata := result.GetMetadata()
		if strings.TrimSpace(result.GetProposal()) == "" || metadata["finish_reason"] != "stop" ||
			metadata["completion_tokens"] == "" || metadata["model"] != server.Model {
			t.Errorf("%s proposed %q, %v", result.GetAgentId(), result.GetProposal(), metadata)
		}
	}
	t.Logf("three agents in %s", status.GetEndedAt().AsTime().Sub(status.GetSubmittedAt().AsTime()))
}

// samples shows that vLLM takes the sampling parameters: the same seed gives the same text, and so many tokens are the most.
func samples(t *testing.T, sys *system.System) {
	asked := request("sampled", "Write a long story about a lighthouse.", "", "")
	asked.Sampling = &pb.Sampling{
		Temperature: proto.Float64(1.2), TopP: proto.Float64(0.9), TopK: proto.Int32(40), MinP: proto.Float64(0.01), Seed: proto.Int64(7),
		MaxTokens: proto.Int32(9), PresencePenalty: proto.Float64(0.1), FrequencyPenalty: proto.Float64(0.1), RepetitionPenalty: proto.Float64(1.1),
	}
	for _, agent := range asked.GetAgents() {
		agent.SystemPrompt, agent.PromptTemplate = "You tell stories.", "{task_description}"
	}
	asked.Agents[1].Sampling = &pb.Sampling{MaxTokens: proto.Int32(5), Stop: []string{"no such text"}}
	status := sys.AwaitEnd(t, sys.Submit(t, asked))
	if status.GetStatus() != "completed" || len(status.GetResults()) != 2 {
		t.Fatalf("it is %v", status)
	}
	for i, most := range []string{"9", "5"} {
		if metadata := status.GetResults()[i].GetMetadata(); metadata["finish_reason"] != "length" || metadata["completion_tokens"] != most {
			t.Errorf("agent %d: %v; want it cut after %s tokens", i, metadata, most)
		}
	}
	long, short := status.GetResults()[0].GetProposal(), status.GetResults()[1].GetProposal()
	if !strings.HasPrefix(long, short) {
		t.Errorf("the same seed gave %q and %q", long, short)
	}
}

// countsTokens compares the usage of a deliberation with the counters of vLLM, where nothing else runs.
func countsTokens(t *testing.T, sys *system.System) {
	read, generated, err := server.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	status := sys.AwaitEnd(t, sys.Submit(t, request("counted", "Name three risks of caching.", "", "", "")))
	used := status.GetUsage()
	if status.GetStatus() != "completed" || used.GetRequests() != 3 || used.GetPromptTokens() == 0 || used.GetCompletionTokens() == 0 {
		t.Fatalf("it is %v", status)
	}
	// vLLM renews its counters after a step.
	await.NoError(t, "vLLM's counters", func() error {
		readThen, generatedThen, err := server.Tokens(t.Context())
		if err != nil {
			return err
		}
		if p, c := int64(readThen-read), int64(generatedThen-generated); p != used.GetPromptTokens() || c != used.GetCompletionTokens() {
			return fmt.Errorf("vLLM counted %d and %d tokens, the usage is %v", p, c, used)
		}
		return nil
	})
}

// fitsForms shows that vLLM generates what response_format asks for.
func fitsForms(t *testing.T, sys *system.System) {
	const schema = `{"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}}, "required": ["ok", "n"], "additionalProperties": false}`
	for name, form := range map[string]*pb.ResponseFormat{
		"schema": {Format: &pb.ResponseFormat_JsonSchema{JsonSchema: schema}},
		"choice": {Format: &pb.ResponseFormat_Choice{Choice: &pb.Choice{Values: []string{"yes", "no"}}}},
		"regex":  {Format: &pb.ResponseFormat_Regex{Regex: "[ab]{3}"}},
	} {
		asked := request("form-"+name, "Answer.", "", "")
		asked.ResponseFormat = form
		status := sys.AwaitEnd(t, sys.Submit(t, asked))
		if status.GetStatus() != "completed" {
			t.Errorf("%s: it is %v", name, status)
		}
		for _, result := range status.GetResults() {
			t.Logf("%s: %q %v", name, result.GetProposal(), result.GetMetadata())
			if result.GetMetadata()["status"] != "completed" {
				t.Errorf("%s: %v", name, result.GetMetadata())
			}
		}
	}
}

// sharesPrefixes lets sixteen agents read the same long task.
func sharesPrefixes(t *testing.T, sys *system.System) {
	queried, hit, err := server.Prefixes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	description := strings.Repeat("Every answer of the cache may be stale, and nobody notices. ", 100)
	if status := sys.AwaitEnd(t, sys.Submit(t, request("prefixes", description, make([]string, 16)...))); status.GetStatus() != "completed" {
		t.Fatalf("it is %v", status)
	}
	queriedThen, hitThen, err := server.Prefixes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	share := (hitThen - hit) / (queriedThen - queried)
	t.Logf("of %.0f tokens %.0f %% were there", queriedThen-queried, 100*share)
	if share < 0.8 {
		t.Errorf("of what sixteen agents are told, %.0f %% is taken from the cache of prefixes", 100*share)
	}
}

func unknownModel(t *testing.T, sys *system.System) {
	status := sys.AwaitEnd(t, sys.Submit(t, request("unknown-model", "Build a login page", "", "nobody")))
	failure := status.GetResults()[1].GetMetadata()
	if status.GetStatus() != "completed" || !strings.Contains(failure["error"], "404") || !strings.Contains(failure["error"], "nobody") {
		t.Errorf("it is %s, the agent's metadata %v", status.GetStatus(), failure)
	}
	if failure["attempts"] != "1" {
		t.Errorf("what cannot be mended was asked for %s times", failure["attempts"])
	}
}

func cancelStopsGeneration(t *testing.T, sys *system.System) {
	id := sys.Submit(t, request("cancel", "Count to a million "+vllm.Slow, "", ""))
	awaitRunning(t, 2)
	if got := sys.Cancel(t, id, "enough"); got != "cancelled" {
		t.Errorf("cancel answers %s", got)
	}
	cancelled := time.Now()
	awaitRunning(t, 0)
	t.Logf("vLLM ran nothing %s after the cancel", time.Since(cancelled).Round(time.Millisecond))
	if got := sys.Status(t, id).GetStatus(); got != "cancelled" {
		t.Errorf("it is %s", got)
	}
}

func deadlineStopsGeneration(t *testing.T, sys *system.System) {
	submitted := request("deadline", "Count to a million "+vllm.Slow, "")
	submitted.Constraints = &pb.TaskConstraints{TimeoutSeconds: 2}
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	if status.GetStatus() != "failed" || !strings.Contains(status.GetErrorMessage(), "timed out") {
		t.Errorf("it is %s: %s", status.GetStatus(), status.GetErrorMessage())
	}
	awaitRunning(t, 0)
}

// keyStaysOnTheCluster looks for the key where anyone could read it.
func keyStaysOnTheCluster(t *testing.T, sys *system.System) {
	response, err := sys.Ray().HTTP().Get(sys.Ray().Address() + "/api/serve/applications/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	config, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(config), "ray-executor") || strings.Contains(string(config), server.APIKey) {
		t.Errorf("Serve's config: %v\n%s", err, config)
	}
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
	last := stream.CachedInfo().State.LastSeq
	for sequence := uint64(1); sequence <= last; sequence++ {
		message, err := stream.GetMsg(t.Context(), sequence)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(message.Data), server.APIKey) {
			t.Errorf("the key stands in %s", message.Subject)
		}
	}
}

func awaitRunning(t *testing.T, want float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := server.WaitRunning(ctx, want); err != nil {
		t.Fatal(err)
	}
}
