package golden_test

import (
	"os"
	"path/filepath"
	"testing"

	"rayexecutor/tests/golden"
)

// recorder notes a failure in place of failing the test.
type recorder struct {
	testing.TB

	failed bool
}

func (*recorder) Helper()                 {}
func (r *recorder) Errorf(string, ...any) { r.failed = true }

func TestCheck(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "reply.golden")
	if err := os.WriteFile(path, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"one\n": false, "one": true, "two\n": true} {
		r := &recorder{TB: t}
		golden.Check(r, path, []byte(text))
		if r.failed != want {
			t.Errorf("%q: failed is %v", text, r.failed)
		}
	}
}
