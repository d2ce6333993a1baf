package deliberation

import (
	"fmt"
	"iter"
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
		return fmt.Errorf("%s is not a placeholder: only {name} is; to write a brace, leave a space after it", Short(broken))
	}
	for name := range placeholders(template) {
		if _, ok := metadata[name]; !ok && !slices.Contains(BuiltinPlaceholders, name) {
			return fmt.Errorf("placeholder %s is unknown: use {task_description}, {role}, {agent_id} or a key of constraints.metadata", Short("{"+name+"}"))
		}
	}
	return nil
}

// placeholders yields the names in a template, in order, without a list of
// them: a megabyte may hold 350,000.
func placeholders(template string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			at := placeholder.FindStringSubmatchIndex(template)
			if at == nil || !yield(template[at[2]:at[3]]) {
				return
			}
			template = template[at[1]:]
		}
	}
}
