package deliberation_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"rayexecutor/deliberation"
)

func TestCheckTemplate(t *testing.T) {
	t.Parallel()
	metadata := map[string]string{"lang": "Go", "_x1": "", "two words": "never a placeholder"}
	for template, says := range map[string]string{
		"":                                "",
		"no braces":                       "",
		"{task_description}{role}":        "",
		"{agent_id} writes {lang}{_x1}":   "",
		"{x}":                             "{x} is unknown",
		"{Role}":                          "{Role} is unknown",
		"{lang} and {typo}":               "{typo} is unknown",
		"{a.b}":                           "{a.b} is not a placeholder",
		"{lang.upper}":                    "{lang.upper} is not a placeholder",
		"{a.b.c}":                         "{a.b.c} is not a placeholder",
		"{a[0]}":                          "{a[0]} is not a placeholder",
		"{a[key]}":                        "{a[key]} is not a placeholder",
		"{a[0].b}":                        "{a[0].b} is not a placeholder",
		"{role} then {a[]}":               "{a[]} is not a placeholder",
		"{}":                              "",
		"{ role }":                        "",
		"{ typo }":                        "",
		"{role!r} {role:>10}":             "",
		`{"answer": 42, "list": [1, 2]}`:  "",
		`{"a": {"b": "{role}"}}`:          "",
		`{"a": "{typo}"}`:                 "{typo} is unknown",
		"{{role}}":                        "",
		"{{typo}}":                        "{typo} is unknown",
		"{ {a.b} }":                       "{a.b} is not a placeholder",
		"{0} {1a} {two words} {ключ}":     "",
		"{e.g. this} {v1.2} {f(x)} {a,b}": "",
		"{\nrole}":                        "",
		"{role":                           "",
		"role}":                           "",
		"func() { return x.y }":           "",
	} {
		t.Run(template, func(t *testing.T) {
			t.Parallel()
			err := deliberation.CheckTemplate(template, metadata)
			switch {
			case says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case says != "" && (err == nil || !strings.Contains(err.Error(), says)):
				t.Errorf("got %v, want …%s…", err, says)
			}
		})
	}
}

// FuzzCheckTemplate: a template that passes has no placeholder left once the
// known ones are filled, and one without braces always passes.
func FuzzCheckTemplate(f *testing.F) {
	for _, seed := range []string{"{role}", "{{x}}", "{a.b}", "{a[0]}", `{"a": 1}`, "{", "{}"} {
		f.Add(seed)
	}
	identifier := regexp.MustCompile(`\{([A-Za-z_][A-Za-z0-9_]*)\}`)
	f.Fuzz(func(t *testing.T, template string) {
		err := deliberation.CheckTemplate(template, nil)
		if err != nil && !strings.Contains(template, "{") {
			t.Fatalf("%q has no placeholder: %v", template, err)
		}
		if err != nil {
			return
		}
		for _, match := range identifier.FindAllStringSubmatch(template, -1) {
			if !strings.Contains("task_description role agent_id", match[1]) {
				t.Errorf("%q passes with %s", template, match[0])
			}
		}
	})
}

func ExampleCheckTemplate() {
	metadata := map[string]string{"language": "Go"}
	fmt.Println(deliberation.CheckTemplate(`As {role}, answer in {language} as {"code": "…"}.`, metadata))
	fmt.Println(deliberation.CheckTemplate("Write {langage}.", metadata))
	// Output:
	// <nil>
	// placeholder {langage} is unknown: use {task_description}, {role}, {agent_id} or a key of constraints.metadata
}
