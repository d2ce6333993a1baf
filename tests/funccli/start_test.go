package funccli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
)

// func itself waits a minute when Start has failed; Run does not.
func TestStartFails(t *testing.T) {
	t.Parallel()
	binary, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":    "module rayexecutor\n\ngo 1.26.0\n",
		"func.yaml": "specVersion: 0.36.0\nname: probe\nruntime: go\ncreated: 2026-11-23T00:00:00Z\ninvoke: http\n",
		"function.go": `package function

import (
	"context"
	"errors"
	"net/http"
)

type Function struct{}

func New() *Function                                             { return &Function{} }
func (f *Function) Start(context.Context, map[string]string) error { return errors.New("FAIL: is set") }
func (f *Function) Ready(context.Context) (bool, error)          { return false, nil }
func (f *Function) Handle(http.ResponseWriter, *http.Request)    {}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := start(binary, dir, freeport.Address(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.waitReady(t.Context()); err == nil || !strings.Contains(err.Error(), "failed to start") {
		t.Errorf("got %v", err)
	}
	if err := f.Stop(); err != nil {
		t.Error(err)
	}
	f.output.Wait(t, "FAIL: is set")
	await.Receive(t, "func's end", f.family.Exited())
}
