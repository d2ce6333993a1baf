package deliberation

import (
	"fmt"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Limits of filled prompts, in bytes of UTF-8. Without them a template may name a
// long value a hundred thousand times, and a request of 1 MiB may fill to 300 GB.
const (
	// MaxPromptBytes bounds the filled prompt of one agent.
	MaxPromptBytes = 1 << 20
	// MaxPromptsBytes bounds the filled prompts of all agents together.
	MaxPromptsBytes = 16 << 20
)

// PromptSize is how many bytes of UTF-8 an agent's messages take out of a
// request once they are filled: the filled system prompt, or the role that the default
// one names, and the filled template or what the default message names. The fixed words of our own
// messages, less than a kilobyte, do not count. It fills nothing, and takes
// time that is linear in the template.
//
// The worker's prompt.py fills them; tests/vectors/prompts.json tests both.
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

// valueSizes are the sizes of the values of the placeholders, in bytes.
type valueSizes struct {
	description, role, id int
	metadata              map[string]string
}

// filled is the size of a filled template. A placeholder without a value remains as
// it is.
func (v valueSizes) filled(template string) int {
	size := len(template)
	for name := range placeholders(template) {
		if value, ok := v.of(name); ok {
			size += value - len(name) - len("{}")
		}
	}
	return size
}

// of is the size of a value. A built-in name takes precedence over metadata.
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

// checkPrompts rejects a request whose filled prompts exceed the limits.
func checkPrompts(request *pb.ExecuteDeliberationRequest) error {
	// Both limits are checked, because many agents may share one long description.
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
