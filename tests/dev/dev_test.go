// Package dev tests what a newcomer does first: `make run`, then the commands
// of the README, then Ctrl-C.
package dev_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rayexecutor/tests/system"
)

func TestMakeRunAndTheREADME(t *testing.T) {
	before := processes(t)
	run := start(t)
	run.await(t, "Ctrl-C stops everything")
	for _, want := range []string{
		"NATS ", "stand-in model on", "Ray on", "worker: RUNNING", "serving on http://localhost:8080",
		"agent architect proposed in", "agent developer proposed in", "agent tester proposed in",
	} {
		if !strings.Contains(run.printed(), want) {
			t.Errorf("it did not print %q", want)
		}
	}
	for i, block := range readme(t) {
		t.Run(fmt.Sprintf("README block %d", i+1), func(t *testing.T) { runBlock(t, block) })
	}
	run.interrupt(t)
	if t.Failed() {
		t.Log(run.printed())
	}
	for pid, line := range processes(t) {
		if _, was := before[pid]; !was && ours.MatchString(line) {
			t.Errorf("process %s is left: %s", pid, line)
		}
	}
}

// ours matches what `make run` starts.
var ours = regexp.MustCompile(`(?i)ray|gcs_server|nats`)

// processes returns the command line of every process, by its id.
func processes(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	lines := make(map[string]string)
	for _, path := range paths {
		if line, err := os.ReadFile(path); err == nil && len(line) > 0 {
			lines[filepath.Base(filepath.Dir(path))] = string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
	return lines
}

// running is `make run` while it runs.
type running struct {
	command *exec.Cmd
	lines   chan string
	mu      sync.Mutex
	text    strings.Builder
}

func start(t *testing.T) *running {
	t.Helper()
	command := exec.Command("make", "run")
	command.Dir = system.Root()
	command.Env = os.Environ()
	if venv := os.Getenv("RAY_VENV"); venv != "" {
		command.Env = append(command.Env, "VENV="+venv)
	}
	// A group of its own, which gets the Ctrl-C as a terminal's would.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = command.Stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) })
	r := &running{command: command, lines: make(chan string, 1000)}
	go r.read(output)
	return r
}

func (r *running) read(output io.Reader) {
	defer close(r.lines)
	for scanner := bufio.NewScanner(output); scanner.Scan(); {
		r.mu.Lock()
		r.text.WriteString(scanner.Text() + "\n")
		r.mu.Unlock()
		r.lines <- scanner.Text()
	}
}

func (r *running) printed() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *running) await(t *testing.T, want string) {
	t.Helper()
	patience := time.After(5 * time.Minute)
	for {
		select {
		case line, ok := <-r.lines:
			if !ok {
				t.Fatalf("it ended without %q:\n%s", want, r.printed())
			}
			if strings.Contains(line, want) {
				return
			}
		case <-patience:
			t.Fatalf("it never printed %q:\n%s", want, r.printed())
		}
	}
}

func (r *running) interrupt(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(-r.command.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for range r.lines { // until its end
	}
	_ = r.command.Wait() // make tells an interrupt as an error
}

// readme returns the blocks of the README that are to be run as they stand.
func readme(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(system.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, match := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(text, -1) {
		blocks = append(blocks, string(match[1]))
	}
	if len(blocks) < 4 {
		t.Fatalf("the README has %d blocks to run", len(blocks))
	}
	return blocks
}

func runBlock(t *testing.T, block string) {
	command := exec.Command("bash", "-euo", "pipefail", "-c", block)
	command.Dir = system.Root()
	printed, err := command.CombinedOutput()
	if err != nil || strings.Contains(string(printed), `"title":`) {
		t.Errorf("%v\n%s\nprinted\n%s", err, block, printed)
	}
}
