package faults

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rayexecutor/tests/system"
)

// TestTheSystemKeepsItsWord carries out a plan: some seconds' by default, or
// SOAK's (a duration) and SEED's, and then a calm one before. ONLY, words with commas between, confines it to
// the kinds of faults that hold one of them, and leaves the calm away.
func TestTheSystemKeepsItsWord(t *testing.T) {
	plan := NewPlan(seed(t), length(t), strings.FieldsFunc(os.Getenv("ONLY"), func(r rune) bool { return r == ',' })...)
	t.Logf("the plan:\n%s", plan)
	// Interrupted it ends as ever, and leaves nothing behind.
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		t.Fatal(err)
	}
	rig, err := startRig(ctx, dir)
	defer func() {
		if err := rig.close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if t.Failed() {
			t.Logf("the logs are in %s", dir)
			return
		}
		os.RemoveAll(dir)
	}()
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	run := newRun(ctx, rig, os.Stdout)
	if plan.Long && os.Getenv("ONLY") == "" {
		calm, err := run.carryOut(Calm(plan.Seed))
		if err != nil {
			t.Fatalf("calm: %v", err)
		}
		if v := calm.Check(); v.AskedTwice > 0 || v.AskedAnew > 0 {
			t.Errorf("a rollout had %d agents asked again after an answer, and %d before one", v.AskedTwice, v.AskedAnew)
		}
	}
	evidence, err := run.carryOut(plan)
	if err != nil {
		t.Fatal(err)
	}
	verdict := evidence.Check()
	t.Logf("\n%s", evidence.Report(plan, verdict))
	for _, left := range plan.leftOut(evidence.Windows) {
		t.Run(string(left.kind), func(t *testing.T) { t.Skip(left.reason) }) // make test lists what was skipped
	}
	if plan.Length >= 30*time.Minute && os.Getenv("ONLY") == "" {
		document(t, func(text string) (string, error) {
			return evidence.Document(plan, verdict, run.began, rig.versions(ctx), text)
		})
	}
	if err := errors.Join(run.failures...); err != nil {
		t.Errorf("not as planned: %v", err)
	}
	for _, broken := range verdict.Broken {
		t.Errorf("broken: %s", broken)
	}
}

// document changes docs/reliability.md.
func document(t *testing.T, change func(string) (string, error)) {
	t.Helper()
	path := filepath.Join(system.Root(), "docs", "reliability.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := change(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

func seed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("SEED")
	if text == "" {
		return 1
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("SEED: %v", err)
	}
	return seed
}

func length(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return 20 * time.Second
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	return length
}
