//go:build kubernetes

package kubernetes_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rayexecutor/tests/system"
)

// report is what docs/knative.md tells of a run.
type report struct {
	t     *testing.T
	begun time.Time
	lines []string
}

func newReport(t *testing.T) *report { return &report{t: t, begun: time.Now()} }

// add tells how long something took.
func (r *report) add(what string, took time.Duration) {
	r.row(what, round(took))
}

// timed tells it when the function that it returns is called.
func (r *report) timed(what string) (done func()) {
	begun := time.Now()
	return func() { r.add(what, time.Since(begun)) }
}

func (r *report) median(what string, took []time.Duration) {
	slices.Sort(took)
	r.row(what, fmt.Sprintf("%s (median of %d; %s to %s)", round(took[len(took)/2]), len(took), round(took[0]), round(took[len(took)-1])))
}

func (r *report) notef(format string, arguments ...any) {
	r.row(fmt.Sprintf(format, arguments...), "")
}

func (r *report) row(what, took string) {
	r.t.Logf("%s: %s", what, took)
	r.lines = append(r.lines, fmt.Sprintf("| %d s | %s | %s |", int(time.Since(r.begun).Seconds()), what, took))
}

func round(took time.Duration) string {
	if took < time.Second {
		return took.Round(time.Millisecond / 10).String()
	}
	return took.Round(time.Second / 10).String()
}

// marker is where the page's generated part begins.
const marker = "<!-- made by `UPDATE=1 make test-kubernetes` -->\n"

// write puts it into docs/knative.md, where that was asked for.
func (r *report) write(t *testing.T) {
	t.Helper()
	table := "| after | what | took |\n|---|---|---|\n" + strings.Join(r.lines, "\n") + "\n"
	t.Log("\n" + table)
	if os.Getenv("UPDATE") == "" {
		return
	}
	path := filepath.Join(system.Root(), "docs", "knative.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, found := strings.Cut(string(text), marker)
	if !found {
		t.Fatalf("%s has no line %q", path, marker)
	}
	versions := fmt.Sprintf("\nRun of %s, on Kubernetes %s.\n\n", r.begun.UTC().Format("2006-01-02 15:04 UTC"),
		kubectl(t, "get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo.kubeletVersion}"))
	if err := os.WriteFile(path, []byte(head+marker+versions+table), 0o600); err != nil {
		t.Fatal(err)
	}
}
