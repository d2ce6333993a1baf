//go:build linux

// Package owned tests owned.py, by which the rigs' scripts signal processes.
package owned_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"rayexecutor/minder/mindertest"
	"rayexecutor/tests/await"
)

func owned(t *testing.T, args ...string) (string, error) {
	t.Helper()
	printed, err := exec.Command("python3", append([]string{"owned.py"}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(printed)), err
}

// A recorded process is stopped with its session, though both ignore SIGTERM, and
// though the process itself was killed before.
func TestStopEndsTheSession(t *testing.T) {
	if !mindertest.Apart(t) {
		return
	}
	mindertest.Canaries(t)
	for _, killed := range []bool{false, true} {
		dir := t.TempDir()
		record, pids := filepath.Join(dir, "record"), filepath.Join(dir, "pids")
		leader := exec.Command("sh", "-c", `trap '' TERM; sh -c 'echo $$ >> "$0"; sleep 300; sleep 300' "$0" & wait; sleep 300`, pids)
		leader.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := leader.Start(); err != nil {
			t.Fatal(err)
		}
		if printed, err := owned(t, "record", record, strconv.Itoa(leader.Process.Pid)); err != nil {
			t.Fatal(err, printed)
		}
		await.True(t, "the member's pid", func() bool {
			data, _ := os.ReadFile(pids)
			return strings.HasSuffix(string(data), "\n")
		})
		if printed, err := owned(t, "alive", record); err != nil || printed != strconv.Itoa(leader.Process.Pid) {
			t.Errorf("alive: %s, %v", printed, err)
		}
		if killed {
			_ = leader.Process.Kill()
			_ = leader.Wait()
		}
		if printed, err := owned(t, "stop", record, "0.2"); err != nil {
			t.Error(err, printed)
		}
		_ = leader.Wait()
		text, _ := os.ReadFile(pids)
		member, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		if state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", member)); len(state) > 0 && !strings.Contains(string(state), ") Z ") {
			t.Errorf("a member is left: %s", state)
		}
		if _, err := owned(t, "alive", record); err == nil {
			t.Error("it is said to live")
		}
	}
}

// A pid that was used again, a record of another boot, and what is no record.
func TestStopHurtsNobody(t *testing.T) {
	if !mindertest.Apart(t) {
		return
	}
	mindertest.Canaries(t)
	stranger := exec.Command("sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	record := filepath.Join(t.TempDir(), "record")
	if printed, err := owned(t, "record", record, strconv.Itoa(stranger.Process.Pid)); err != nil {
		t.Fatal(err, printed)
	}
	good, _ := os.ReadFile(record)
	for _, text := range []string{
		fmt.Sprintf("%d 1 %s", stranger.Process.Pid, boot),
		strings.Replace(string(good), string(boot[:8]), "00000000", 1),
		strconv.Itoa(stranger.Process.Pid), "0 0 " + string(boot), "1 1 " + string(boot), "-1 1 " + string(boot), "garbage", "",
	} {
		if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if printed, err := owned(t, "stop", record, "0.2"); err != nil {
			t.Errorf("%q: %v: %s", text, err, printed)
		}
		if _, err := owned(t, "alive", record); err == nil {
			t.Errorf("%q is said to live", text)
		}
	}
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger was hurt: %v", err)
	}
	_ = stranger.Process.Kill()
	_ = stranger.Wait()
}
