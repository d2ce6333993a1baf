//go:build linux

package local

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"rayexecutor/minder/mindertest"
	"rayexecutor/tests/await"
)

func TestMain(m *testing.M) {
	if os.Getenv(orphanVenv) != "" {
		orphan()
	}
	goleak.VerifyTestMain(m)
}

// fakeVenv has a `ray` that runs a shell script.
func fakeVenv(t *testing.T, script string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bin")
	for name, text := range map[string]string{
		"python": "#!/bin/sh\nexec /bin/sh \"$@\"\n", "ray": script,
	} {
		if err := os.MkdirAll(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Dir(bin)
}

func TestStartWithoutRay(t *testing.T) {
	_, err := Start(t.Context(), Options{Venv: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "make run") {
		t.Error(err)
	}
}

func TestStartThatFailsTellsWhatRaySaid(t *testing.T) {
	dir := t.TempDir() // too long for sockets
	_, err := Start(t.Context(), Options{Venv: fakeVenv(t, ""), Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
	_, err = Start(t.Context(), Options{Venv: fakeVenv(t, "echo no such luck; exit 3")})
	if err == nil || !strings.Contains(err.Error(), "no such luck") || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
}

// The venv may be named from the working directory, and a program that is not
// there is an error that hurts nobody.
func TestStartHurtsNobody(t *testing.T) {
	if !mindertest.Apart(t) {
		return
	}
	mindertest.Canaries(t)
	venv := fakeVenv(t, "echo no such luck; exit 3")
	t.Chdir(filepath.Dir(venv))
	_, err := Start(t.Context(), Options{Venv: filepath.Base(venv)})
	if err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Error(err)
	}
	if err := os.Remove(python(venv)); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Options{Venv: filepath.Base(venv)})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

// A dashboard that refuses the token belongs to another Ray: no use in waiting.
func TestStartEndsAtOnceWhereTheTokenIsRefused(t *testing.T) {
	dashboard := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer dashboard.Close()
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	port := dashboard.Listener.Addr().(*net.TCPAddr).Port
	_, err := Start(ctx, Options{Venv: fakeVenv(t, "exec sleep 300"), DashboardPort: port})
	if err == nil || !strings.Contains(err.Error(), "another Ray answers") || ctx.Err() != nil {
		t.Error(err)
	}
}

// What a dead owner left is removed, what a living one holds is not, nor what is
// not ours or no directory of this package.
func TestSweep(t *testing.T) {
	parent, err := os.MkdirTemp("/tmp", "") // a short name
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	living := makeIn(t, parent)
	dead := makeIn(t, parent)
	dead.lock.Close()
	for _, path := range []string{"ray-local-young", "ray-local-strange", "elsewhere"} {
		if err := os.Mkdir(filepath.Join(parent, path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	strange, elsewhere := filepath.Join(parent, "ray-local-strange"), filepath.Join(parent, "elsewhere")
	for _, path := range []string{strange, elsewhere} {
		if err := os.WriteFile(lockOf(path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(elsewhere, filepath.Join(parent, "ray-local-link")); err != nil {
		t.Fatal(err)
	}
	want := []string{dead.path}
	if os.Chown(strange, 12345, -1) != nil {
		want = append(want, strange) // not root: it is ours
	}
	if got := sweep(parent); !slices.Equal(got, want) {
		t.Errorf("removed %v, not %v", got, want)
	}
	if _, err := os.Stat(lockOf(living.path)); err != nil {
		t.Error(err)
	}
	if err := living.remove(); err != nil || len(sweep(parent)) > 0 {
		t.Error(err)
	}
}

func makeIn(t *testing.T, parent string) *directory {
	t.Helper()
	d, err := makeDirectory(parent)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A Ray that ignores being asked, and whose children are spread over process
// groups and sessions, is killed whole.
func TestStartThatIsCancelledLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pids := filepath.Join(t.TempDir(), "pids")
	go func() { // once all processes run
		_ = await.Until(t.Context(), "two pids", func() error {
			if text, _ := os.ReadFile(pids); bytes.Count(text, []byte("\n")) < 2 {
				return errors.New("fewer")
			}
			return nil
		})
		cancel()
	}()
	script := "trap '' TERM\nsetsid sh -c 'trap \"\" TERM; echo $$ >>" + pids + "; sleep 300; sleep 300' &\n" +
		"(trap '' TERM; sleep 300; sleep 300) &\necho $! >>" + pids + "\nwhile :; do wait; sleep 1; done"
	_, err := Start(ctx, Options{Venv: fakeVenv(t, script)})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	written, _ := os.ReadFile(pids)
	if len(strings.Fields(string(written))) != 2 {
		t.Errorf("pids %q", written)
	}
	for pid := range strings.FieldsSeq(string(written)) {
		number, _ := strconv.Atoi(pid)
		if syscall.Kill(number, 0) == nil {
			t.Errorf("process %s still exists", pid)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"RAY_ADDRESS": "http://another:8265", "RAY_AUTH_TOKEN": "secret", "RAY_AUTH_MODE": "disabled",
		"PYTHONPATH": "/elsewhere", "PYTHONHOME": "/elsewhere", "PYTHONSTARTUP": "/elsewhere", "VLLM_API_KEY": "key", "no_proxy": "models.local",
	} {
		t.Setenv(name, value)
	}
	r := &Ray{token: "ours", ip: "127.0.0.2", dir: &directory{}}
	environment := r.environment("/v", Options{Env: []string{"RAY_BACKEND_LOG_LEVEL=debug", "RAY_AUTH_TOKEN=theirs"}})
	got := map[string]string{}
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		got[name] = value // the last one counts
	}
	for name, want := range map[string]string{
		"RAY_BACKEND_LOG_LEVEL": "debug", "VLLM_API_KEY": "key", "VIRTUAL_ENV": "/v", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ours",
		"NO_PROXY": "localhost,127.0.0.1,::1,127.0.0.2,models.local",
	} {
		if got[name] != want {
			t.Errorf("%s=%s, not %s", name, got[name], want)
		}
	}
	for name := range got {
		if name == "RAY_ADDRESS" || strings.HasPrefix(name, "PYTHON") {
			t.Errorf("%s is handed on", name)
		}
	}
}

func TestPortsOfTwo(t *testing.T) {
	first, err := claim(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer first.release()
	second, err := claim(0, 34567)
	if err != nil {
		t.Fatal(err)
	}
	defer second.release()
	if first.base == second.base || second.dashboard() != 34567 || first.dashboard() != first.base+2 {
		t.Errorf("%+v, %+v", first, second)
	}
	if _, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(first.base)); err == nil {
		t.Error("the claim is not held")
	}
	seen := map[string]bool{}
	for _, argument := range append(first.arguments(), second.arguments()...) {
		_, port, _ := strings.Cut(argument, "=")
		if seen[port] {
			t.Errorf("%s is used twice", argument)
		}
		seen[port] = true
	}
	if err := errors.Join(first.release(), first.release()); err != nil {
		t.Error("releasing twice fails")
	}
}
