//go:build kubernetes

package kubernetes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rayexecutor/tests/system"
)

// guide is the operators' page: what each of its sections has to be run.
type guide map[string][]string

var sections = regexp.MustCompile(`(?m)^## `)

func readGuide(t *testing.T) guide {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(system.Root(), "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	g := make(guide)
	for _, section := range sections.Split(string(text), -1)[1:] {
		title, body, _ := strings.Cut(section, "\n")
		if commands := system.Commands(body); len(commands) > 0 {
			g[title] = commands
		}
	}
	t.Cleanup(func() {
		for title := range g {
			if !t.Failed() {
				t.Errorf("the section %q has commands that were not run", title)
			}
		}
	})
	return g
}

// run runs a section's commands as they stand.
func (g guide) run(t *testing.T, title string) {
	t.Helper()
	if len(g[title]) == 0 {
		t.Fatalf("docs/operating.md has nothing to run under %q", title)
	}
	for _, block := range g[title] {
		command := exec.Command("bash", "-euo", "pipefail", "-c", block)
		command.Dir = system.Root()
		printed, err := command.CombinedOutput()
		t.Logf("%s\n%s", block, printed)
		if err != nil {
			t.Fatal(err)
		}
	}
	delete(g, title)
}
