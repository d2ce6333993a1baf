package deliberation_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// promptVectors is tests/vectors/prompts.json, which the worker's tests run too.
type promptVectors struct {
	MaxPrompt  int `json:"max_prompt"`
	MaxPrompts int `json:"max_prompts"`
	Cases      []struct {
		Name            string
		TaskDescription string `json:"task_description"`
		Role            string
		Metadata        map[string]string
		Agent           struct {
			ID             string
			Role           string
			PromptTemplate string `json:"prompt_template"`
			SystemPrompt   string `json:"system_prompt"`
		}
		Times map[string]int
		Size  int
	}
}

func readVectors(t *testing.T) promptVectors {
	t.Helper()
	data, err := os.ReadFile("../tests/vectors/prompts.json")
	if err != nil {
		t.Fatal(err)
	}
	var read promptVectors
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

func TestPromptSizeIsTheWorkers(t *testing.T) {
	t.Parallel()
	read := readVectors(t)
	if read.MaxPrompt != deliberation.MaxPromptBytes || read.MaxPrompts != deliberation.MaxPromptsBytes {
		t.Errorf("the limits are %d and %d in the vectors", read.MaxPrompt, read.MaxPrompts)
	}
	for _, test := range read.Cases {
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			times := func(field, text string) string { return strings.Repeat(text, max(1, test.Times[field])) }
			agent := &pb.Agent{
				Id: test.Agent.ID, Role: test.Agent.Role,
				PromptTemplate: times("prompt_template", test.Agent.PromptTemplate),
				SystemPrompt:   times("system_prompt", test.Agent.SystemPrompt),
			}
			sent := &pb.ExecuteDeliberationRequest{
				TaskDescription: times("task_description", test.TaskDescription), Role: test.Role,
				Constraints: &pb.TaskConstraints{Metadata: test.Metadata}, Agents: []*pb.Agent{agent},
			}
			if got := deliberation.PromptSize(sent, agent); got != test.Size {
				t.Errorf("got %d, want %d", got, test.Size)
			}
		})
	}
}

func TestAcceptBoundsTheFilledPrompts(t *testing.T) {
	t.Parallel()
	half := strings.Repeat("x", 1<<19)
	many := func(n int, template string) []*pb.Agent {
		agents := make([]*pb.Agent, n)
		for i := range agents {
			agents[i] = &pb.Agent{Id: fmt.Sprintf("a%d", i), PromptTemplate: template}
		}
		return agents
	}
	for name, test := range map[string]struct {
		description string
		agents      []*pb.Agent
		field, says string
	}{
		"15 GB out of 1 MB": {
			half, many(1, strings.Repeat("{task_description}", 29_000)),
			"agents[0].prompt_template", "fills to 15204352003 bytes; at most 1048576",
		},
		"the second agent's template":  {half, append(many(1, ""), &pb.Agent{Id: "b", PromptTemplate: "{task_description}{task_description}"}), "agents[1].prompt_template", `of agent "b" fills to 1048579 bytes`},
		"all agents together":          {half, many(33, ""), "agents", "the prompts of all 33 agents fill to"},
		"256 agents and a description": {strings.Repeat("x", 1_000_000), many(256, ""), "agents", "256 agents fill to 256002"},
		"as much as may be":            {half[:1<<19-100], many(32, ""), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent := request()
			sent.TaskDescription, sent.Agents = test.description, test.agents
			if size := proto.Size(sent); size > deliberation.MaxRequestBytes {
				t.Fatalf("the test's request is %d bytes", size)
			}
			_, err := rules(t).Accept("id", sent)
			if test.says == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			checkRefusal(t, err, deliberation.Invalid, test.field, test.says)
		})
	}
}

func TestPlaceholderEchoIsShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<20)
	for _, template := range []string{"{" + long + "}", "{a." + long + "}", "{a[ü" + strings.Repeat("ü", 1<<19) + "]}"} {
		err := deliberation.CheckTemplate(template, nil)
		if err == nil || len(err.Error()) > 300 {
			t.Errorf("%.20s…: an error of %d bytes", template, len(err.Error()))
		}
	}
}

// FuzzPromptSize: the size is that of what is filled.
func FuzzPromptSize(f *testing.F) {
	f.Add("{role}{x}{y}", "a {role}", "DEV", "value")
	f.Add("{{task_description}}", "ü", "r", "")
	f.Add("{a{x}{x{role}}{_}{1x}{x", "b", "r", "{x}")
	f.Fuzz(func(t *testing.T, template, description, role, value string) {
		if template == "" {
			t.Skip("the default message")
		}
		agent := &pb.Agent{Id: "a1", PromptTemplate: template}
		sent := &pb.ExecuteDeliberationRequest{
			TaskDescription: description, Role: role, Agents: []*pb.Agent{agent},
			Constraints: &pb.TaskConstraints{Metadata: map[string]string{"x": value}},
		}
		named := strings.NewReplacer("{task_description}", description, "{role}", role, "{agent_id}", "a1", "{x}", value)
		want := len(role) + len(named.Replace(template))
		if got := deliberation.PromptSize(sent, agent); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	})
}

func ExamplePromptSize() {
	agent := &pb.Agent{Id: "a1", PromptTemplate: "As {role}: {task_description}"}
	fmt.Println(deliberation.PromptSize(&pb.ExecuteDeliberationRequest{TaskDescription: "build it", Role: "DEV"}, agent))
	// Output: 19
}
