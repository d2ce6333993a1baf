package deliberation

import (
	"fmt"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Limits of filled prompts, in bytes of UTF-8. A template can name a long value
// a hundred thousand times: a request of 1 MiB would fill to 300 GB.
const (
	// MaxPromptBytes is the most that the prompt of one agent fills to.
	MaxPromptBytes = 1 << 20
	// MaxPromptsBytes is the most that all prompts of a deliberation fill to.
	MaxPromptsBytes = 16 << 20
)

// PromptSize is how many bytes of UTF-8 an agent's messages take out of a
// request once they are filled: the filled system prompt, or the role that the default
// one names, and the filled template or what the default message names. The fixed words of our own
// messages, less than a kilobyte, do not count. It fills nothing, and takes
// time that is linear in the template.
//
// tests/vectors/prompts.json holds it against the worker's prompt.py.
func PromptSize(request *pb.ExecuteDeliberationRequest, agent *pb.Agent) int {
	sizes := valueSizes{
		description: len(request.GetTaskDescription()), role: len(agent.GetRole()), id: len(agent.GetId()),
		metadata: request.GetConstraints().GetMetadata(),
	}
	if sizes.role == 0 {
		sizes.role = len(request.GetRole())
	}
	system := sizes.role
	if agent.GetSystemPrompt() != "" {
		system = sizes.filled(agent.GetSystemPrompt())
	}
	if agent.GetPromptTemplate() == "" {
		return system + sizes.description + sizes.role + sizes.id
	}
	return system + sizes.filled(agent.GetPromptTemplate())
}

// valueSizes are the bytes of what placeholders stand for.
type valueSizes struct {
	description, role, id int
	metadata              map[string]string
}

// filled adds up the template's own bytes and its values'. A name that nothing
// fills stands for itself.
func (v valueSizes) filled(template string) int {
	size := len(template)
	for name := range placeholders(template) {
		if value, ok := v.of(name); ok {
			size += value - len(name) - len("{}")
		}
	}
	return size
}

// of is a value's size; a built-in name hides metadata's.
func (v valueSizes) of(name string) (size int, ok bool) {
	switch name {
	case "task_description":
		return v.description, true
	case "role":
		return v.role, true
	case "agent_id":
		return v.id, true
	default:
		value, ok := v.metadata[name]
		return len(value), ok
	}
}

// checkPrompts refuses a request whose prompts fill to more than the limits.
func checkPrompts(request *pb.ExecuteDeliberationRequest) error {
	total := 0
	for i, agent := range request.GetAgents() {
		size := PromptSize(request, agent)
		if size > MaxPromptBytes {
			field := "task_description"
			switch {
			case len(agent.GetSystemPrompt()) > len(agent.GetPromptTemplate()):
				field = fmt.Sprintf("agents[%d].system_prompt", i)
			case agent.GetPromptTemplate() != "":
				field = fmt.Sprintf("agents[%d].prompt_template", i)
			}
			return Invalidf(field, "the prompt of agent %q fills to %d bytes; at most %d are taken: shorten the template or the values that it names", agent.GetId(), size, MaxPromptBytes)
		}
		total += size
	}
	if total > MaxPromptsBytes {
		return Invalidf("agents", "the prompts of all %d agents fill to %d bytes; at most %d are taken: shorten the description or the templates, or name fewer agents", len(request.GetAgents()), total, MaxPromptsBytes)
	}
	return nil
}
