//go:build kubernetes

package kubernetes_test

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// processes finds those whose command line holds a text.
func processes(t *testing.T, text string) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(line), text) {
			continue
		}
		var id int
		if _, err := fmt.Sscanf(path, "/proc/%d/", &id); err == nil {
			found = append(found, id)
		}
	}
	return found
}

// signal signals processes of the rig's containers. Each is opened, by a pidfd,
// before it is looked at.
func signal(t *testing.T, processes []int, what syscall.Signal) {
	t.Helper()
	containerd := containerdPid(t)
	for _, id := range processes {
		process, err := os.FindProcess(id)
		if err != nil {
			t.Fatal(err)
		}
		var parent, session int
		fmt.Sscan(afterName(id), new(string), &parent)
		fmt.Sscan(afterName(parent), new(string), new(int), new(int), &session)
		if session != containerd {
			t.Fatalf("process %d is in no container of the rig: its parent's session is %d, containerd is %d", id, session, containerd)
		}
		if err := process.Signal(what); err != nil {
			t.Error(err)
		}
	}
}

// containerdPid is that of the rig's containerd, whose session its shims are in.
func containerdPid(t *testing.T) (pid int) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(cmp.Or(os.Getenv("KRIG_HOME"), filepath.Join(cache, "krig")), "run", "pids", "containerd")
	printed, err := exec.Command("python3", filepath.Join("..", "owned", "owned.py"), "alive", record).Output()
	if err == nil {
		_, err = fmt.Sscan(string(printed), &pid)
	}
	if err != nil {
		t.Fatalf("the rig's containerd: %v", err)
	}
	return pid
}

// afterName is the rest of /proc/PID/stat: state, parent, group, session.
func afterName(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return string(text[bytes.LastIndexByte(text, ')')+1:])
}
