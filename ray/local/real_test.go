//go:build linux

package local

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
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
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
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
	if left := members(stopped.process.pid, marker+"="+stopped.id); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if _, err := os.Stat(stopped.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", stopped.dir, err)
	}
	if kept, _ := filepath.Glob(filepath.Join(logs, "*", "dashboard.log")); len(kept) != 1 {
		t.Errorf("logs kept: %v", kept)
	}
	if len(members(running.process.pid, marker+"="+running.id)) < 5 {
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
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
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
		if left := members(node.process.pid, marker+"="+node.id); len(left) > 0 {
			t.Errorf("node %s leaves %v", node.IP(), left)
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
	var session int
	var mark, dir string
	if _, err := fmt.Sscan(line, &session, &mark, &dir); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	defer os.RemoveAll(dir)
	if len(members(session, mark)) < 5 {
		t.Fatalf("Ray does not run: %v", members(session, mark))
	}
	begun := time.Now()
	_ = parent.Process.Kill()
	_ = parent.Wait()
	for len(members(session, mark)) > 0 {
		if time.Since(begun) > 20*time.Second {
			left := members(session, mark)
			killAll(session, mark)
			t.Fatalf("processes left: %v", left)
		}
		time.Sleep(poll)
	}
	t.Logf("gone after %v", time.Since(begun))
}

// orphan is the parent that is killed.
func orphan() {
	r, err := Start(context.Background(), Options{Venv: os.Getenv(orphanVenv), NumCPUs: 1})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stdout, r.process.pid, marker+"="+r.id, r.dir)
	select {}
}
