// Package dev tests what a newcomer does first: `make run`, then the commands
// of the README, then Ctrl-C.
package dev_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"rayexecutor/minder"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

func TestMakeRunAndTheREADME(t *testing.T) {
	run := start(t)
	// Ray is downloaded and started.
	run.output.WaitFor(t, 10*time.Minute, "Ctrl-C stops everything")
	for _, want := range []string{
		"NATS ", "stand-in model on", "Ray on", "worker: RUNNING", "serving on http://localhost:8080",
		"agent architect proposed in", "agent developer proposed in", "agent tester proposed in",
	} {
		if !strings.Contains(run.output.String(), want) {
			t.Errorf("it did not print %q", want)
		}
	}
	for i, block := range readme(t) {
		t.Run(fmt.Sprintf("README block %d", i+1), func(t *testing.T) { runBlock(t, block) })
	}
	besideIt(t)
	ours := descendants(t, run.family.Pid())
	if len(ours) < 5 {
		t.Errorf("it runs %d processes; a Ray has more", len(ours))
	}
	run.interrupt(t)
	if t.Failed() {
		t.Log(run.output.String())
	}
	for pid, line := range ours {
		if line != "" && commandLine(pid) == line {
			t.Errorf("process %d is left: %.200s", pid, line)
		}
	}
}

// besideIt runs the operator's commands with nothing set, as a newcomer does:
// they find what runs. A second dev is refused.
func besideIt(t *testing.T) {
	t.Helper()
	for command, want := range map[string]string{
		"doctor": "worker   ok", "dead list": "DELIBERATION", "relay list": "DELIBERATION", "dev": "another dev (pid ",
	} {
		cmd := exec.CommandContext(t.Context(), filepath.Join("bin", "ray-executor"), strings.Fields(command)...)
		cmd.Dir, cmd.Env = system.Root(), system.Newcomer(os.Environ())
		printed, err := cmd.CombinedOutput()
		if (err != nil) != (command == "dev") || !strings.Contains(string(printed), want) {
			t.Errorf("%s: %v, printed\n%s", command, err, printed)
		}
	}
}

// descendants returns a process's children and theirs, with their command
// lines, by process id.
func descendants(t *testing.T, root int) map[int]string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := make(map[int][]int)
	for _, path := range paths {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var state string
		var parent int
		// After the name, which stands in brackets and may hold anything.
		_, err = fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent)
		pid, err2 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		children[parent] = append(children[parent], pid)
	}
	found := make(map[int]string)
	for next := children[root]; len(next) > 0; {
		pid := next[0]
		next = append(next[1:], children[pid]...)
		found[pid] = commandLine(pid)
	}
	return found
}

// commandLine is empty where there is no such process any more.
func commandLine(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
}

// running is `make run` while it runs.
type running struct {
	family *minder.Family
	output await.Output
}

func start(t *testing.T) *running {
	t.Helper()
	output, printing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer printing.Close()
	program, err := exec.LookPath("make")
	if err != nil {
		t.Fatal(err)
	}
	// No variable of ours: CI was green for months because VENV was passed here.
	family, err := minder.Start(minder.Program{
		Line: []string{program, "run"}, Env: system.Newcomer(os.Environ()), Dir: system.Root(), Output: printing, Grace: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := family.Kill(); err != nil {
			t.Error(err)
		}
	})
	r := &running{family: family}
	go func() {
		defer r.output.Close()
		defer output.Close()
		_, _ = io.Copy(&r.output, output)
	}()
	return r
}

func (r *running) interrupt(t *testing.T) {
	t.Helper()
	// As a terminal does: to all of make's process group.
	leader := r.family.Pid()
	group, err := syscall.Getpgid(leader)
	if err != nil {
		t.Fatal(err)
	}
	for pid := range descendants(t, leader) {
		if its, err := syscall.Getpgid(pid); err == nil && its == group {
			_ = r.family.Signal(pid, syscall.SIGINT) // it may just have ended
		}
	}
	if err := r.family.Signal(leader, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-r.family.Exited()
	r.output.Drain()
}

// readme returns the blocks of the README that are to be run as they stand.
func readme(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(system.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := system.Commands(string(text))
	if len(blocks) < 4 {
		t.Fatalf("the README has %d blocks to run", len(blocks))
	}
	return blocks
}

func runBlock(t *testing.T, block string) {
	command := exec.Command("bash", "-euo", "pipefail", "-c", block)
	command.Dir = system.Root()
	// Clients that a reader has installed, such as grpcurl.
	command.Env = append(os.Environ(), "PATH="+filepath.Join(system.Root(), ".tools")+":"+os.Getenv("PATH"))
	printed, err := command.CombinedOutput()
	if err != nil || strings.Contains(string(printed), `"title":`) {
		t.Errorf("%v\n%s\nprinted\n%s", err, block, printed)
	}
}
