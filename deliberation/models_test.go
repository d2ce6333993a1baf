package deliberation_test

import (
	"testing"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestModels(t *testing.T) {
	t.Parallel()
	models := deliberation.ParseModels([]string{"qwen/*", "llama-3.1", "*-instruct"})
	for model, want := range map[string]bool{
		"qwen/qwen3-8b": true, "qwen/": true, "llama-3.1": true, "mistral/m-instruct": true, "-instruct": true,
		"qwen": false, "xqwen/a": false, "llama-3x1": false, "llama-3.1b": false, "LLAMA-3.1": false, "m-instruct\nx": false,
	} {
		if got := models.Allows(model); got != want {
			t.Errorf("%q: %t", model, got)
		}
	}
	if !deliberation.ParseModels(nil).Allows("any") {
		t.Error("without patterns a model is refused")
	}
}

// TestCallersNameAllowedModelsOnly: the operator's default is always allowed.
func TestCallersNameAllowedModelsOnly(t *testing.T) {
	t.Parallel()
	rules, err := deliberation.NewRules(deliberation.Settings{
		Pools: []string{"default"}, ModelHosts: []string{"vllm"}, ModelURL: "http://vllm", Model: "default-model", Models: []string{"qwen/*"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(model, agentModel string) error {
		_, err := rules.Accept("d", &pb.ExecuteDeliberationRequest{
			TaskId: "t", TaskDescription: "d", Role: "DEV", VllmModel: model, Agents: []*pb.Agent{{Id: "a"}, {Id: "b", Model: agentModel}},
		})
		return err
	}
	for _, allowed := range [][2]string{{"", ""}, {"default-model", ""}, {"qwen/a", "qwen/b"}, {"", "default-model"}} {
		if err := ask(allowed[0], allowed[1]); err != nil {
			t.Errorf("%q: %v", allowed, err)
		}
	}
	checkRefusal(t, ask("other", ""), deliberation.Invalid, "vllm_model", "MODELS")
	_, err = rules.Accept("d", &pb.ExecuteDeliberationRequest{
		TaskId: "t", TaskDescription: "d", Role: "DEV", Agents: []*pb.Agent{{Id: "a", Fallbacks: []*pb.ModelEndpoint{{Model: "qwen/a"}, {Model: "other"}}}},
	})
	checkRefusal(t, err, deliberation.Invalid, "agents[0].fallbacks[1].model", "MODELS")
	checkRefusal(t, ask("", "other"), deliberation.Invalid, "agents[1].model", "MODELS")
}
