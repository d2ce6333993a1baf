package heavy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// podBytes is the memory of a function's pod: deploy/base/service.yaml.
const podBytes = 256 << 20

// pod is a memory cgroup.
type pod struct {
	dir string
	v2  bool
}

// pods numbers the cgroups of this process.
var pods atomic.Int64

// newPod makes a cgroup of a size. Where that is not allowed the test is
// skipped: without a limit in the kernel it would only measure.
func newPod(t *testing.T, size int) *pod {
	t.Helper()
	for _, p := range []*pod{
		{dir: filepath.Join("/sys/fs/cgroup", own("0::")), v2: true},
		{dir: filepath.Join("/sys/fs/cgroup/memory", own(":memory:"))},
	} {
		p.dir = filepath.Join(p.dir, fmt.Sprintf("ray-executor-heavy-%d-%d", os.Getpid(), pods.Add(1)))
		if p.make(size) == nil {
			t.Cleanup(p.remove)
			return p
		}
		_ = os.Remove(p.dir)
	}
	t.Skip("no memory cgroup can be made here: run it as root, where a memory controller is delegated")
	return nil
}

// own is this process's place in a hierarchy.
func own(kind string) string {
	said, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(said)) {
		if _, place, found := strings.Cut(line, kind); found {
			return strings.TrimSpace(place)
		}
	}
	return "/"
}

func (p *pod) make(size int) error {
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return err
	}
	limit := "memory.limit_in_bytes"
	if p.v2 {
		limit = "memory.max"
	}
	file, err := os.OpenFile(filepath.Join(p.dir, limit), os.O_WRONLY, 0) // where it is not there, this is no cgroup
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(strconv.Itoa(size))
	return err
}

// remove waits for the cgroup's processes, which the system has ended.
func (p *pod) remove() {
	for range 100 {
		if os.Remove(p.dir) == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// wrap is the command that runs another within the pod.
func (p *pod) wrap() []string { return p.command(`exec "$@"`) }

// wrapServer is wrap for the server, and for HEAVY_BINARY in its place.
func (p *pod) wrapServer() []string {
	if program := os.Getenv("HEAVY_BINARY"); program != "" {
		return p.command("exec " + program + " serve")
	}
	return p.wrap()
}

func (p *pod) command(run string) []string {
	return []string{"sh", "-c", "echo $$ > " + filepath.Join(p.dir, "cgroup.procs") + " && " + run, "sh"}
}

// killed is how often the kernel has killed for want of memory.
func (p *pod) killed() string {
	name := "memory.oom_control"
	if p.v2 {
		name = "memory.events"
	}
	said, _ := os.ReadFile(filepath.Join(p.dir, name))
	for line := range strings.Lines(string(said)) {
		if times, found := strings.CutPrefix(line, "oom_kill "); found {
			return strings.TrimSpace(times)
		}
	}
	return "0"
}

// peak is the most memory that a process has had, in bytes.
func peak(t *testing.T, pid int) int { return memory(t, pid, "VmHWM:") }

// resident is the memory that a process has, in bytes.
func resident(t *testing.T, pid int) int { return memory(t, pid, "VmRSS:") }

func memory(t *testing.T, pid int, field string) int {
	t.Helper()
	said, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatalf("the server is gone: %v", err)
	}
	for line := range strings.Lines(string(said)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == field {
			kilobytes, _ := strconv.Atoi(fields[1])
			return kilobytes << 10
		}
	}
	t.Fatal("the kernel does not report " + field)
	return 0
}
