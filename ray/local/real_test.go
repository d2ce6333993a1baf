//go:build linux

package local

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rayexecutor/tests/await"
)

// orphanVenv makes the test binary start a Ray and wait to be killed.
const orphanVenv = "RAY_EXECUTOR_TEST_ORPHAN"

func realVenv(t *testing.T) string {
	t.Helper()
	venv := os.Getenv("RAY_VENV")
	if venv == "" {
		venv = filepath.Join("..", "..", ".venv")
	}
	venv, err := filepath.Abs(venv)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(command(venv)); err != nil {
		t.Fatalf("no Ray in %s: run `make test`, which installs it, or set RAY_VENV", venv)
	}
	return venv
}

// Two run side by side, and one that stops leaves nothing behind and the other
// alone.
func TestRealTwo(t *testing.T) {
	venv, logs := realVenv(t), t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	rays := make([]*Ray, 2)
	var starting sync.WaitGroup
	for i := range rays {
		starting.Go(func() {
			begun := time.Now()
			var err error
			if rays[i], err = Start(ctx, Options{Venv: venv, NumCPUs: 1, LogDir: logs}); err != nil {
				t.Error(err)
				return
			}
			t.Logf("started in %v", time.Since(begun))
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, r := range rays {
		defer r.Stop(context.Background())
	}
	stopped, running := rays[0], rays[1]
	begun := time.Now()
	if err := stopped.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped in %v", time.Since(begun))
	if left := processesOf(stopped); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if _, err := os.Stat(stopped.dir.path); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", stopped.dir.path, err)
	}
	if logsLeft, _ := filepath.Glob(filepath.Join(logs, "*", "dashboard.log")); len(logsLeft) != 1 {
		t.Errorf("logs kept: %v", logsLeft)
	}
	if len(processesOf(running)) < 5 {
		t.Error("the other one was stopped too")
	}
	select {
	case <-running.Exited():
		t.Error("the other one has exited")
	default:
	}
}

// Nodes join a head; one that is lost takes neither the head nor the other with
// it.
func TestRealNodes(t *testing.T) {
	venv := realVenv(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var nodes []*Ray
	for i := range 3 {
		options := Options{Venv: venv, NumCPUs: 1, IP: fmt.Sprintf("127.0.0.%d", 2+i)}
		if i > 0 {
			options.Head = nodes[0]
		}
		node, err := Start(ctx, options)
		if err != nil {
			t.Fatal(err)
		}
		defer node.Stop(context.Background())
		nodes = append(nodes, node)
	}
	if err := nodes[1].Kill(); err != nil {
		t.Fatal(err)
	}
	<-nodes[1].Exited()
	for _, node := range []*Ray{nodes[0], nodes[2]} {
		select {
		case <-node.Exited():
			t.Errorf("node %s has gone with the one that was killed", node.IP())
		default:
		}
		if node.Address() != nodes[0].Address() {
			t.Errorf("node %s names %s as the dashboard", node.IP(), node.Address())
		}
	}
	for _, node := range nodes {
		if err := node.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// A process that is killed cannot stop its Ray: the kernel and Ray do.
func TestRealOrphan(t *testing.T) {
	parent := exec.Command(os.Args[0], "-test.run=^$")
	parent.Env = append(os.Environ(), orphanVenv+"="+realVenv(t))
	parent.Stderr = os.Stderr
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(line)
	defer os.RemoveAll(dir)
	processes := processesBelow(parent.Process.Pid)
	if len(processes) < 5 {
		t.Fatalf("Ray does not run: %v", processes)
	}
	begun := time.Now()
	_ = parent.Process.Kill()
	_ = parent.Wait()
	awaitGone(t, processes)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	t.Logf("gone after %v", time.Since(begun))
}

// awaitGone waits until processes have ended, whether or not they were reaped.
func awaitGone(t *testing.T, processes []int) {
	t.Helper()
	await.NoError(t, "the end of all processes", func() error {
		processes = slices.DeleteFunc(processes, func(pid int) bool {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || bytes.Contains(text, []byte(") Z "))
		})
		if len(processes) > 0 {
			return fmt.Errorf("processes left: %v", processes)
		}
		return nil
	})
}

// processesOf are a Ray's processes.
func processesOf(r *Ray) []int {
	return slices.DeleteFunc(processesBelow(os.Getpid()), func(pid int) bool { return r.Signal(pid, syscall.Signal(0)) != nil })
}

// processesBelow are all processes that descend from one.
func processesBelow(ancestor int) (below []int) {
	parents := map[int]int{}
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		text, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(text), ") ")
		var state string
		var pid, parent int
		if _, err := fmt.Sscan(rest, &state, &parent); err == nil {
			fmt.Sscan(string(text), &pid)
			parents[pid] = parent
		}
	}
	for pid := range parents {
		for at := parents[pid]; at > 0; at = parents[at] {
			if at == ancestor {
				below = append(below, pid)
				break
			}
		}
	}
	return below
}

// orphan is the parent that is killed.
func orphan() {
	r, err := Start(context.Background(), Options{Venv: os.Getenv(orphanVenv), NumCPUs: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, r.dir.path)
	select {}
}

// Ray starts its workers by a shell, which takes a path apart at its spaces.
func TestRealVenvWithASpace(t *testing.T) {
	venv := filepath.Join(t.TempDir(), "a venv")
	if err := os.Symlink(realVenv(t), venv); err != nil {
		t.Fatal(err)
	}
	r, err := Start(t.Context(), Options{Venv: venv, NumCPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.Background())
	const job = `{"entrypoint": "python -c 'import ray; ray.init(); print(ray.get(ray.remote(lambda: 7).remote()))'", "submission_id": "seven"}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.Address()+"/api/jobs/", strings.NewReader(job))
	if err != nil {
		t.Fatal(err)
	}
	response, err := r.HTTP().Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	response.Body.Close()
	await.NoError(t, "the job", func() error {
		response, err := r.HTTP().Get(r.Address() + "/api/jobs/seven")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if bytes.Contains(body, []byte(`"FAILED"`)) {
			t.Fatalf("%s", body)
		}
		if !bytes.Contains(body, []byte(`"SUCCEEDED"`)) {
			return fmt.Errorf("%s, %w", body, err)
		}
		return nil
	})
}
