package deliberation

import (
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
)

// brokenPlaceholder matches an access into a value, `{a.b}` or `{a[0]}`. It is
// rejected, because it would have no effect. A placeholder is `{identifier}`; any
// other brace is plain text.
var brokenPlaceholder = regexp.MustCompile(`\{[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[^\[\]{}]*\])+\}`)

// BuiltinPlaceholders are the names that every template may use, besides the keys of
// constraints.metadata.
var BuiltinPlaceholders = []string{"task_description", "role", "agent_id"}

// CheckTemplate is an error for a placeholder without a value. The worker fills the
// others in one pass, so a placeholder inside a value is not filled.
func CheckTemplate(template string, metadata map[string]string) error {
	// This runs first: `{a.b}` is no placeholder, so the loop would not see it.
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

// placeholders yields the names in a template, in order: the matches of the pattern
// `\{([A-Za-z_][A-Za-z0-9_]*)\}`. A megabyte may hold 350,000 of them, for which
// package regexp takes a tenth of a second.
func placeholders(template string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			open := strings.IndexByte(template, '{')
			if open < 0 {
				return
			}
			template = template[open+1:]
			end := identifier(template)
			if end == 0 || end == len(template) || template[end] != '}' {
				continue
			}
			if !yield(template[:end]) {
				return
			}
			template = template[end+1:]
		}
	}
}

// identifier is the length of the identifier at the beginning of a text; 0: none.
func identifier(text string) int {
	for i := range len(text) {
		c := text[i]
		letter := c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(text)
}
