// Package makefile tests that each target of the Makefile that runs Go tests
// builds what these need, so that it works alone in a fresh clone.
package makefile

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"rayexecutor/tests/system"
)

var (
	// tool is a program of .tools, as the tests name it.
	tool = regexp.MustCompile(`(?:\.tools", |\btool\()"([a-z-]+)"`)
	// venv is what starts a Ray out of the Python environment.
	venv   = regexp.MustCompile(`\bVenv\(\)`)
	target = regexp.MustCompile(`(?m)^([a-z0-9-]+):.*##`)
	// tested are the packages of tests/ that a recipe runs.
	tested = regexp.MustCompile(`\./tests/[a-z0-9.]+(?:/\.\.\.)?`)
	runsGo = regexp.MustCompile(`(?m)^.*\bgo (?:test|run)\b.*$`)
)

func TestTargetsBuildWhatTheirTestsNeed(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile(filepath.Join(system.Root(), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, match := range target.FindAllStringSubmatch(string(makefile), -1) {
		name := match[1]
		// -B: as in a fresh clone, where nothing is built; -n: nothing runs.
		recipes := run(t, "make", "-B", "-n", "--no-print-directory", name)
		packages := tested.FindAllString(strings.Join(runsGo.FindAllString(recipes, -1), "\n"), -1)
		if len(packages) == 0 {
			continue
		}
		checked++
		for _, need := range needs(t, packages) {
			if !strings.Contains(recipes, need) {
				t.Errorf("make %s runs %v, which need %s, and does not build it: add it to the target's prerequisites", name, packages, need)
			}
		}
	}
	if checked < 4 {
		t.Errorf("only %d targets run tests: does this test still read the Makefile?", checked)
	}
}

// needs are words of the recipes that build what some packages use.
func needs(t *testing.T, packages []string) []string {
	t.Helper()
	files := run(t, "go", append([]string{
		"list", "-tags", "vllm", "-deps", "-test", "-f",
		`{{$dir := .Dir}}{{if not .Standard}}{{range .GoFiles}}{{if ne (slice . 0 1) "/"}}{{$dir}}/{{.}}{{"\n"}}{{end}}{{end}}{{end}}`,
	}, packages...)...)
	found := make(map[string]bool)
	for file := range strings.Lines(files) {
		file = strings.TrimSpace(file)
		if !strings.HasPrefix(file, filepath.Join(system.Root(), "tests")) || filepath.Ext(file) != ".go" { // the main of a test is generated elsewhere
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range tool.FindAllStringSubmatch(string(source), -1) {
			found[built(match[1])] = true
		}
		if venv.Match(source) && filepath.Base(filepath.Dir(file)) != "system" {
			found["ray/local/requirements/ray"] = true
		}
	}
	var words []string
	for word := range found {
		words = append(words, word)
	}
	return words
}

// built is the word by which the recipe of a tool is known.
func built(name string) string {
	switch name {
	case "nats":
		return "natscli/nats@"
	case "grpcurl":
		return "cmd/grpcurl@"
	case "clients-venv":
		return "tests/clients/requirements.txt"
	}
	return ".tools/" + name
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir, command.Env = system.Root(), system.Newcomer(os.Environ())
	var stderr strings.Builder
	command.Stderr = &stderr
	printed, err := command.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, &stderr)
	}
	return string(printed)
}
