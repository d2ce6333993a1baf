// Package vectors reads the test vectors that Go and the Python worker are both
// held to: a file of JSON each, beside this one.
package vectors

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Read returns the vectors of a file, such as hosts.json.
func Read[T any](tb testing.TB, name string) []T {
	tb.Helper()
	_, here, _, _ := runtime.Caller(0)
	data, err := os.ReadFile(filepath.Join(filepath.Dir(here), name))
	if err != nil {
		tb.Fatal(err)
	}
	var list []T
	if err := json.Unmarshal(data, &list); err != nil || len(list) == 0 {
		tb.Fatalf("%s: %d vectors, %v", name, len(list), err)
	}
	return list
}
