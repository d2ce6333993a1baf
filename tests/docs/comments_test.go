package docs_test

import (
	"path/filepath"
	"strings"
	"testing"

	"rayexecutor/tests/system"
)

// protocol names the sources that carry out the journal's protocol. About a fifth
// of their lines says why: reasons, invariants, what is safe to repeat.
var protocol = map[string][]string{
	"journal":   {"journal/*.go"},
	"functions": {"functions/*.go"},
	"keeper":    {"keeper/*.go", "keeper/relay/*.go", "keeper/internal/delivery/*.go"},
	"worker": {
		"ray/worker/ray_executor_worker/deliberation.py", "ray/worker/ray_executor_worker/claim.py",
		"ray/worker/ray_executor_worker/agents.py", "ray/worker/ray_executor_worker/attempt.py",
		"ray/worker/ray_executor_worker/ending.py",
	},
}

// TestCommentShare counts lines that hold nothing but a comment or, in Python, a
// docstring, in all lines that are not blank, without tests. `-v` prints the shares.
func TestCommentShare(t *testing.T) {
	t.Parallel()
	for part, patterns := range protocol {
		comments, lines := 0, 0
		for _, pattern := range patterns {
			paths, err := filepath.Glob(filepath.Join(system.Root(), pattern))
			if err != nil || len(paths) == 0 {
				t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
			}
			for _, path := range paths {
				name, err := filepath.Rel(system.Root(), path)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasSuffix(name, "_test.go") {
					c, l := countComments(read(t, name))
					comments, lines = comments+c, lines+l
				}
			}
		}
		share := 100 * float64(comments) / float64(lines)
		t.Logf("%s: %d of %d lines are comments, %.1f %%", part, comments, lines, share)
		if share < 18 {
			t.Errorf("%s: %.1f %% of the lines are comments; about a fifth should be", part, share)
		}
	}
}

func countComments(text string) (comments, lines int) {
	const quotes = `"""`
	docstring := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		lines++
		opens := strings.HasPrefix(line, quotes)
		if docstring || opens || strings.HasPrefix(line, "//") || strings.HasPrefix(line, "#") {
			comments++
		}
		if (docstring || opens) && strings.Count(line, quotes)%2 == 1 {
			docstring = !docstring
		}
	}
	return comments, lines
}
