package funccli_test

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rayexecutor/tests/funccli"
)

// source is a function in one file; it answers with the event it was sent.
const source = `package function

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
)

type Function struct{}

func New() *Function { return &Function{} }

func (f *Function) Start(context.Context, map[string]string) error {
	env, _ := os.ReadFile("ray-executor.env")
	println("settings:", string(env))
	if string(env) == "FAIL=yes\n" {
		return errors.New("FAIL: is set")
	}
	return nil
}

func (f *Function) Stop(context.Context) error { println("stopped"); return nil }

func (f *Function) Handle(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/refuse" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	for name, values := range r.Header {
		w.Header()[name] = values
	}
	_, _ = io.Copy(w, r.Body)
}
`

// ignored is a file that git ignores.
const ignored = "ignored"

// folder is a repository with a function, which ignores one of its files.
func folder(t *testing.T) string {
	t.Helper()
	if _, err := funccli.Binary(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"function.go": source, "go.mod": "module rayexecutor\n\ngo 1.26.0\n", ".gitignore": "/" + ignored + "\n", ignored: "x",
		"func.yaml": "specVersion: 0.36.0\nname: probe\nruntime: go\ncreated: 2026-11-23T00:00:00Z\ninvoke: http\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if printed, err := exec.Command("git", "-C", dir, "init", "-q").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, printed)
	}
	return dir
}

func TestRunAndInvoke(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	f := funccli.Run(t, dir, "", "A=1", "B=2")
	for _, name := range []string{ignored, ".func"} {
		if _, err := os.Stat(filepath.Join(f.Dir, name)); (err == nil) != (name == ".func") {
			t.Errorf("%s in the copy: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != (name == ignored) {
			t.Errorf("%s in the repository: %v", name, err)
		}
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, every, 0o600); err != nil {
		t.Fatal(err)
	}
	event := []string{"-f", "cloudevent", "--type", "a.b", "--source", "test", "--id", "e1"}
	printed := funccli.Invoke(t, f.URL, append(event, "--data", `{"a":1}`)...)
	if !strings.Contains(printed, "\n  type: a.b\n") || string(funccli.Data(printed)) != "{\n    \"a\": 1\n  }" {
		t.Errorf("printed %s", printed)
	}
	printed = funccli.Invoke(t, f.URL, append(event, "--file", file, "--content-type", "application/protobuf")...)
	if string(funccli.Data(printed)) != string(every) {
		t.Errorf("binary data came back as %q", funccli.Data(printed))
	}
	if printed := funccli.Invoke(t, f.URL+"/refuse", event...); printed != "" {
		t.Errorf("a refused event prints %s", printed)
	}
	if _, err := funccli.TryInvoke(t, f.URL+"/refuse"); err == nil || !strings.Contains(err.Error(), "HTTP 400") {
		t.Errorf("a refused request: %v", err)
	}
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	if text := f.Output(); !strings.Contains(text, "settings: A=1\nB=2\n") || !strings.Contains(text, "stopped") {
		t.Errorf("the output: %s", text)
	}
	at, err := url.Parse(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", at.Host)
	if err != nil {
		t.Fatalf("something is left on the port: %v", err)
	}
	listener.Close()
}

func TestReady(t *testing.T) {
	t.Parallel()
	f := funccli.Run(t, folder(t), "")
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, f.URL+"/health/readiness", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", res, err)
	}
	res.Body.Close()
}

func TestNoBinary(t *testing.T) {
	t.Setenv("FUNC_CLI", "/nowhere/func")
	if _, err := funccli.Binary(); err == nil || !strings.Contains(err.Error(), "run `make tools`") {
		t.Errorf("got %v", err)
	}
}
