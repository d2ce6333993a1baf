// Package funccli runs this repository's function with the real func CLI,
// the way Knative's users do on their machines: `func run` builds and starts
// it, `func invoke` sends it events.
package funccli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rayexecutor/minder"
	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
)

const (
	// startLimit bounds build and start; the build of a cold cache takes
	// minutes, and func itself gives the start 60 s.
	startLimit = 8 * time.Minute
	// stopLimit is more than the 30 s that func-go gives requests to end.
	stopLimit = 90 * time.Second
	// invokeLimit is more than the minute that func invoke waits.
	invokeLimit = 70 * time.Second
)

// running is what func prints once the function is ready: "Function running
// on 127.0.0.1:8080".
const running = "Function running on "

// failed is what func-go logs when Start fails or the server ends.
const failed = `"message":"function error"`

// Binary finds the func CLI: FUNC_CLI, else .tools/func of this repository.
func Binary() (string, error) {
	path := os.Getenv("FUNC_CLI")
	if path == "" {
		root, err := Root()
		if err != nil {
			return "", err
		}
		path = filepath.Join(root, ".tools", "func")
	}
	if _, err := exec.LookPath(path); err != nil {
		return "", fmt.Errorf("no func CLI at %s: run `make tools`, or set FUNC_CLI to one (v0.48)", path)
	}
	return path, nil
}

// Root is the folder of this repository: the nearest one upward with a
// func.yaml.
func Root() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for folder := start; ; folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "func.yaml")); err == nil {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", fmt.Errorf("no func.yaml in %s or above: run the test inside the repository", start)
		}
	}
}

// Function is a function that func runs.
type Function struct {
	// URL is where it answers.
	URL string
	// Dir is the copy of the repository that it was built from and works in.
	Dir string

	family *minder.Family // func and the function
	output await.Output
	stop   func() error
}

// Run copies the repository at dir, without what git ignores, and runs its
// function on address (empty: a free port of 127.0.0.1). It returns once the
// function is ready; it is stopped when the test ends.
//
// settings are lines NAME=value, written to ray-executor.env in the copy:
// func passes a function nothing of its own environment but LISTEN_ADDRESS
// and PWD. A function is ready only when it can reach its NATS.
func Run(tb testing.TB, dir, address string, settings ...string) *Function {
	tb.Helper()
	binary, err := Binary()
	if err != nil {
		tb.Fatal(err)
	}
	if address == "" {
		address = freeport.Address(tb)
	}
	work := tb.TempDir()
	if err := Copy(tb.Context(), dir, work); err != nil {
		tb.Fatal(err)
	}
	env := strings.Join(settings, "\n") + "\n"
	if err := os.WriteFile(filepath.Join(work, "ray-executor.env"), []byte(env), 0o600); err != nil {
		tb.Fatal(err)
	}
	f, err := start(binary, work, address, tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Stop(); err != nil {
			tb.Errorf("func run: %v\n%s", err, f.Output())
		}
	})
	if err := f.waitReady(tb.Context()); err != nil {
		tb.Fatalf("func run: %v\n%s", err, f.Output())
	}
	return f
}

// start starts func, which ends with the test binary, even one that is killed.
func start(binary, work, address, home string) (*Function, error) {
	f := &Function{URL: "http://" + address, Dir: work}
	f.stop = sync.OnceValue(f.stopOnce)
	printed, printing, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer printing.Close()
	f.family, err = minder.Start(minder.Program{
		Line: []string{binary, "run", "--builder=host", "--address", address}, Env: environ(home), Dir: work,
		Output: printing, Grace: time.Second,
	})
	if err != nil {
		return nil, errors.Join(err, printed.Close())
	}
	go func() {
		defer f.output.Close()
		defer printed.Close()
		_, _ = io.Copy(&f.output, printed)
	}()
	return f, nil
}

// environ keeps func's own settings out of the user's home.
func environ(home string) []string {
	return append(os.Environ(), "XDG_CONFIG_HOME="+home, "FUNC_VERBOSE=false")
}

// waitReady waits for func's word and the function's own.
func (f *Function) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready within %v", startLimit))
	defer cancel()
	for {
		text, _, changed := f.output.Watch()
		switch {
		case strings.Contains(text, failed): // func itself would wait on
			return errors.New("the function failed to start")
		case strings.Contains(text, running):
			return f.checkReady(ctx)
		}
		select {
		case <-changed:
		case <-f.family.Exited():
			return errors.New("func ended before the function was ready")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *Function) checkReady(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.URL+"/health/readiness", nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		return fmt.Errorf("readiness: %s: %s", res.Status, body)
	}
	return nil
}

// Output is what func, the build and the function have printed so far.
func (f *Function) Output() string { return f.output.String() }

// Stop stops the function as a host does, with SIGTERM, so that its Stop is
// called; func then ends by itself. Stopping twice is fine.
//
// A signal to func instead would have it kill the function.
func (f *Function) Stop() error { return f.stop() }

func (f *Function) stopOnce() error {
	if err := f.terminate(); err != nil {
		return errors.Join(err, f.family.Kill())
	}
	select {
	case <-f.family.Exited():
		f.output.Drain()
		return nil
	case <-time.After(stopLimit):
		return errors.Join(fmt.Errorf("not stopped within %v", stopLimit), f.family.Kill())
	}
}

// terminate signals the function once it runs, else func.
func (f *Function) terminate() error {
	select {
	case <-f.family.Exited():
		return nil
	default:
	}
	if !strings.Contains(f.Output(), running) {
		// It builds or starts, and a func that is stopped now leaves its
		// children alone.
		return f.family.Kill()
	}
	child, err := childOf(f.family.Pid())
	if err != nil {
		return fmt.Errorf("finding the function's process: %w", err)
	}
	return f.family.Signal(child, syscall.SIGTERM)
}

// childOf is the only child of a process.
func childOf(pid int) (int, error) {
	printed, err := exec.Command("pgrep", "-P", fmt.Sprint(pid)).Output()
	if err != nil {
		return 0, err
	}
	var child int
	_, err = fmt.Sscan(string(printed), &child)
	return child, err
}

// Invoke sends a message with `func invoke` to the target, a URL, and returns
// what that prints on stdout. args are its flags, for example
//
//	"-f", "cloudevent", "--type", "ray_executor.v1.GetStatusRequest", "--source", "test",
//	"--data", "{}"
//
// Beware: with -f cloudevent, func prints nothing and succeeds when it is
// answered with an error, and even when nobody answers.
func Invoke(tb testing.TB, target string, args ...string) string {
	tb.Helper()
	printed, err := TryInvoke(tb, target, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return printed
}

// TryInvoke is Invoke for what may fail: the error has what func printed on
// stderr.
func TryInvoke(tb testing.TB, target string, args ...string) (string, error) {
	tb.Helper()
	binary, err := Binary()
	if err != nil {
		return "", err
	}
	// func wants a function's folder even with a URL. This one names no
	// `invoke`, so that there is no warning about the format.
	const yaml = "specVersion: 0.36.0\nname: invoker\nruntime: go\ncreated: 2026-11-23T00:00:00Z\n"
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "func.yaml"), []byte(yaml), 0o600); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(tb.Context(), invokeLimit)
	defer cancel()
	command := exec.CommandContext(ctx, binary, append([]string{"invoke", "--path", dir, "--target", target}, args...)...)
	command.Env = environ(dir)
	var said bytes.Buffer
	command.Stderr = &said
	printed, err := command.Output()
	if err != nil {
		return string(printed), fmt.Errorf("func invoke %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return string(printed), nil
}

// Data is the data of a reply event that Invoke printed: protobuf as it was
// sent, JSON indented. Empty where there is none.
func Data(printed string) []byte {
	_, data, _ := strings.Cut(printed, "\nData,\n  ")
	return []byte(strings.TrimSuffix(data, "\n"))
}

// Copy copies what git tracks or would track from one folder into another.
func Copy(ctx context.Context, from, to string) error {
	list := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = from
	names, err := list.Output()
	if err != nil {
		return fmt.Errorf("git ls-files in %s: %w", from, err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyFile copies one file; one that is gone from the folder is left out.
func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, info.Mode().Perm())
}
