package deliberation

import (
	"fmt"
	"regexp"
	"slices"
)

// placeholder is `{identifier}`; brokenPlaceholder is what looks like access
// into a value, `{a.b}` or `{a[0]}`, and is refused so that nobody believes it
// does something. Any other brace stands for itself.
var (
	placeholder       = regexp.MustCompile(`\{([A-Za-z_][A-Za-z0-9_]*)\}`)
	brokenPlaceholder = regexp.MustCompile(`\{[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[^\[\]{}]*\])+\}`)
)

// BuiltinPlaceholders are the names that every template may use; the keys of
// constraints.metadata come on top.
var BuiltinPlaceholders = []string{"task_description", "role", "agent_id"}

// CheckTemplate reports a placeholder that nothing will fill. The worker fills
// the others, in one pass.
func CheckTemplate(template string, metadata map[string]string) error {
	if broken := brokenPlaceholder.FindString(template); broken != "" {
		return fmt.Errorf("%s is not a placeholder: only {name} is; to write a brace, leave a space after it", broken)
	}
	for _, match := range placeholder.FindAllStringSubmatch(template, -1) {
		if _, ok := metadata[match[1]]; !ok && !slices.Contains(BuiltinPlaceholders, match[1]) {
			return fmt.Errorf("placeholder {%s} is unknown: use {task_description}, {role}, {agent_id} or a key of constraints.metadata", match[1])
		}
	}
	return nil
}
