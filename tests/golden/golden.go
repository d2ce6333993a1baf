// Package golden compares what a test made with a committed file. The flag
// -update of `go test` writes the file anew; its change is then read in a diff.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Updating reports whether the test runs with -update.
func Updating() bool { return *update }

// Check fails the test if the file at path, relative to its package, does not hold
// got. With -update it writes the file first.
func Check(tb testing.TB, path string, got []byte) {
	tb.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		tb.Fatalf("%v; `go test -update` in this package writes it", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		tb.Errorf("%s differs from what the test made; if that is meant, `go test -update` in this package writes it anew (-file +made):\n%s", path, diff)
	}
}
