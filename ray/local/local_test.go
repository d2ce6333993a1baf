//go:build linux

package local

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
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

// A Ray that ignores being asked, and whose children are spread over process
// groups and sessions, is killed whole.
func TestStartThatIsGivenUpLeavesNothing(t *testing.T) {
	before := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	pids := filepath.Join(t.TempDir(), "pids")
	script := "trap '' TERM\nsetsid sh -c 'trap \"\" TERM; echo $$ >>" + pids + "; sleep 300; sleep 300' &\n" +
		"(trap '' TERM; sleep 300; sleep 300) &\necho $! >>" + pids + "\nwhile :; do wait; sleep 1; done"
	_, err := Start(ctx, Options{Venv: fakeVenv(t, script)})
	if err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Error(err)
	}
	written, _ := os.ReadFile(pids)
	if len(strings.Fields(string(written))) != 2 {
		t.Errorf("pids %q", written)
	}
	for pid := range strings.FieldsSeq(string(written)) {
		number, _ := strconv.Atoi(pid)
		if state, _ := stat(number); state != "" && state != "Z" {
			t.Errorf("process %s is still there: %s", pid, state)
		}
	}
	if took := time.Since(before); took > grace+5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("RAY_ADDRESS", "http://another:8265")
	t.Setenv("RAY_AUTH_TOKEN", "secret")
	t.Setenv("VLLM_API_KEY", "key")
	r := &Ray{id: "id"}
	environment := "\n" + strings.Join(r.environment(Options{Venv: "/v", Env: []string{"RAY_BACKEND_LOG_LEVEL=debug"}}), "\n") + "\n"
	for _, want := range []string{"RAY_BACKEND_LOG_LEVEL=debug", "VLLM_API_KEY=key", "VIRTUAL_ENV=/v", marker + "=id"} {
		if !strings.Contains(environment, "\n"+want+"\n") {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(environment, "RAY_ADDRESS") || strings.Contains(environment, "secret") {
		t.Error("variables of another Ray are handed on")
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
