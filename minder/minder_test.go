//go:build linux

package minder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rayexecutor/minder/mindertest"
	"rayexecutor/tests/await"
)

// owner makes the test binary start a family and wait to be killed.
const owner = "MINDER_TEST_OWNER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(owner); dir != "" {
		own(dir)
	}
	goleak.VerifyTestMain(m)
}

// stubborn ignores SIGTERM, as do its children: one in its group, one in a
// session of its own, and one whose parent has ended. It writes their pids into
// the file that it is given.
const stubborn = `trap '' TERM
(echo $$ > /dev/null; exec sh -c 'echo $$ >> "$0"; sleep 300; sleep 300' "$1") &
setsid sh -c 'echo $$ >> "$0"; sleep 300; sleep 300' "$1" &
(setsid sh -c 'echo $$ >> "$0"; sleep 300; sleep 300' "$1" &)
`

func shell(t *testing.T, script string) (program Program, pids string) {
	t.Helper()
	pids = filepath.Join(t.TempDir(), "pids")
	return Program{Line: []string{"/bin/sh", "-c", script, "sh", pids}, Env: os.Environ(), Dir: t.TempDir(), Grace: time.Second}, pids
}

func run(t *testing.T, program Program) *Family {
	t.Helper()
	f, err := Start(program)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Kill(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// written waits until a file has at least as many lines, each a pid.
func written(t *testing.T, path string, lines int) (pids []int) {
	t.Helper()
	var text []byte
	await.True(t, fmt.Sprintf("%d lines in %s", lines, path), func() bool {
		text, _ = os.ReadFile(path)
		return strings.Count(string(text), "\n") >= lines
	})
	for field := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// gone fails if one of the processes still exists.
func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d still exists", pid)
		}
	}
}

func exited(t *testing.T, f *Family) {
	t.Helper()
	await.Receive(t, "the family's end", f.Exited())
}

func TestStopEndsWhatIgnoresIt(t *testing.T) {
	t.Parallel()
	program, path := shell(t, stubborn+"while :; do sleep 300; done")
	f := run(t, program)
	pids := written(t, path, 3)
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, pids)
	if err := errors.Join(f.Stop(t.Context()), f.Kill()); err != nil {
		t.Errorf("stopping again: %v", err)
	}
}

func TestStopIsAskedFirst(t *testing.T) {
	t.Parallel()
	program, path := shell(t, `trap 'echo 2 >> "$1"; exit 7' TERM; echo 1 >> "$1"; while :; do sleep .05; done`)
	program.Grace = time.Minute
	f := run(t, program)
	written(t, path, 1)
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	written(t, path, 2)
	if f.Err().Error() != "exit status 7" {
		t.Error(f.Err())
	}
}

func TestStopKillsWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	program, path := shell(t, stubborn+"while :; do sleep 300; done")
	program.Grace = time.Hour
	f := run(t, program)
	pids := written(t, path, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Stop(ctx); err != nil {
		t.Error(err)
	}
	gone(t, pids)
}

// A program that crashes leaves processes: they are ended too.
func TestCrash(t *testing.T) {
	if !mindertest.Apart(t) {
		return
	}
	mindertest.Canaries(t)
	// It crashes once its children have written their pids.
	program, path := shell(t, stubborn+`until [ -s "$1" ] && [ "$(wc -l < "$1")" = 3 ]; do sleep .05; done; exit 3`)
	f := run(t, program)
	pids := written(t, path, 3)
	exited(t, f)
	gone(t, pids)
	if f.Err().Error() != "exit status 3" {
		t.Error(f.Err())
	}
}

func TestSignalReachesOnlyTheFamily(t *testing.T) {
	t.Parallel()
	program, path := shell(t, stubborn+"while :; do sleep 300; done")
	f := run(t, program)
	stranger := exec.Command("sleep", "300")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{-1, 0, 1, os.Getpid(), os.Getppid(), stranger.Process.Pid, f.minder.Pid, 1 << 22} {
		if err := f.Signal(pid, syscall.SIGKILL); !errors.Is(err, ErrNotOurs) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	pids := written(t, path, 3)
	for _, pid := range pids {
		if err := f.Signal(pid, syscall.SIGKILL); err != nil {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	if err := f.Kill(); err != nil {
		t.Error(err)
	}
	gone(t, pids)
	if stranger.Process.Kill() != nil || stranger.Wait().Error() != "signal: killed" {
		t.Error("a stranger was hurt")
	}
}

func TestAProgramThatIsNotThereHurtsNobody(t *testing.T) {
	if !mindertest.Apart(t) {
		return
	}
	mindertest.Canaries(t)
	program, _ := shell(t, "")
	program.Line = []string{"nowhere/sh"}
	if _, err := Start(program); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

// A stranger that gets the pid of one that has ended gets no signal.
func TestAPidThatIsUsedAgain(t *testing.T) {
	if !mindertest.Apart(t) {
		return
	}
	mindertest.Canaries(t)
	program, path := shell(t, `sh -c 'echo $$ >> "$1"; exec sleep 300' sh "$1" & wait; sleep 300`)
	f := run(t, program)
	pid := written(t, path, 1)[0]
	if err := f.Signal(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	sleepAs(t, pid)
	if err := f.Signal(pid, syscall.SIGKILL); !errors.Is(err, ErrNotOurs) {
		t.Error(err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	// The minder's own pid, too: its children are no more of the family.
	sleepAs(t, f.minder.Pid)
	for _, pid := range []int{f.minder.Pid, pid} {
		if err := f.Signal(pid, syscall.SIGKILL); !errors.Is(err, ErrNotOurs) {
			t.Error(err)
		}
	}
	if err := errors.Join(f.Stop(t.Context()), f.Kill()); err != nil {
		t.Error(err)
	}
	for _, pid := range []int{f.minder.Pid, pid} {
		if syscall.Kill(pid, 0) != nil {
			t.Errorf("stranger %d was hurt", pid)
		}
	}
}

// sleepAs starts a process that gets the pid of one that has ended. A shell does
// it: this program's threads take pids, too.
func sleepAs(t *testing.T, pid int) {
	t.Helper()
	script := `for _ in $(seq 100); do
		echo $(($0 - 1)) > /proc/sys/kernel/ns_last_pid || exit 3
		sleep 1000 > /dev/null 2>&1 & [ $! = $0 ] && exit
		kill $!; sleep .02
	done; exit 4`
	printed, err := exec.Command("sh", "-c", script, strconv.Itoa(pid)).CombinedOutput()
	if err != nil {
		t.Fatalf("pid %d: %v: %s", pid, err, printed)
	}
}

// An owner that dies leaves neither a process nor its directory.
func TestOwnerDies(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			if !mindertest.Apart(t) {
				return
			}
			mindertest.Canaries(t)
			dir := filepath.Join(t.TempDir(), "dir")
			command := exec.Command(os.Args[0])
			command.Env = append(os.Environ(), owner+"="+dir)
			if err := errors.Join(os.Mkdir(dir, 0o700), mindertest.StartAttended(command)); err != nil {
				t.Fatal(err)
			}
			pids := written(t, filepath.Join(dir, "pids"), 3)
			if err := command.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			_ = command.Wait()
			await.True(t, "the removal of "+dir, func() bool {
				_, err := os.Stat(dir)
				return err != nil
			})
			gone(t, pids)
		})
	}
}

func own(dir string) {
	line := []string{"/bin/sh", "-c", stubborn + "while :; do sleep 300; done", "sh", filepath.Join(dir, "pids")}
	if _, err := Start(Program{Line: line, Env: os.Environ(), Dir: dir, Grace: time.Second, Remove: dir}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// A minder that is killed takes the program along, by the kernel.
func TestMinderDies(t *testing.T) {
	t.Parallel()
	program, path := shell(t, `trap 'echo 2 >> "$1"; exit' TERM; echo 1 >> "$1"; while :; do sleep .05; done`)
	f := run(t, program)
	written(t, path, 1)
	if err := f.minder.Kill(); err != nil {
		t.Fatal(err)
	}
	exited(t, f)
	written(t, path, 2)
}
