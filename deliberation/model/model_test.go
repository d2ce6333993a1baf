// Package model is the journal's protocol in TLA+. See docs/reliability.md.
package model_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	// code is the model's list of what the code does.
	code = regexp.MustCompile(`(?s)\nCode ==\n(.*?)\n\n`)
	// action is one of the list.
	action = regexp.MustCompile(`([A-Z]\w+)\(`)
	// mark names an action where the code carries it.
	mark = regexp.MustCompile(`(?m)^\s*(?://|#) Model: (\w+)\.$`)
)

// Every action of the model is named where the code carries it, and every name
// is an action of the model.
func TestCodeNamesTheActions(t *testing.T) {
	t.Parallel()
	spec, err := os.ReadFile("Deliberation.tla")
	if err != nil {
		t.Fatal(err)
	}
	list := code.FindSubmatch(spec)
	if list == nil {
		t.Fatal("the model has no list of the code's actions")
	}
	if diff := cmp.Diff(names(action, list[1]), marks(t)); diff != "" {
		t.Errorf("actions of the model (-) and names in the code (+):\n%s", diff)
	}
}

// marks returns the names in the code.
func marks(t *testing.T) []string {
	t.Helper()
	root := os.DirFS("../..")
	var found []string
	for _, folder := range []string{"functions", "journal", "keeper", "ray/worker/ray_executor_worker"} {
		err := fs.WalkDir(root, folder, func(path string, _ fs.DirEntry, err error) error {
			if extension := filepath.Ext(path); err != nil || extension != ".go" && extension != ".py" {
				return err
			}
			source, err := fs.ReadFile(root, path)
			found = append(found, names(mark, source)...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// names returns what a pattern finds, sorted, each once.
func names(pattern *regexp.Regexp, text []byte) []string {
	var found []string
	for _, match := range pattern.FindAllSubmatch(text, -1) {
		found = append(found, string(match[1]))
	}
	slices.Sort(found)
	return slices.Compact(found)
}
