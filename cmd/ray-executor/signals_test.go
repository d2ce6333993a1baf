package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rayexecutor/journal/journaltest"
	"rayexecutor/minder/mindertest"
)

// asProgram makes the test binary the program: signals are a process's.
const asProgram = "RAY_EXECUTOR_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// child is the program as a process of its own.
type child struct {
	*exec.Cmd

	lines *bufio.Scanner
}

func launch(t *testing.T, environ []string, args ...string) *child {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], args...)
	command.Env = append(os.Environ(), append(environ, asProgram+"=1", "PORT=0", "GRPC_PORT=0")...)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = command.Stdout
	if err := mindertest.StartAttended(command); err != nil {
		t.Fatal(err)
	}
	return &child{command, bufio.NewScanner(output)}
}

// await reads up to the line that holds some words.
func (c *child) await(t *testing.T, words string) string {
	t.Helper()
	for c.lines.Scan() {
		if strings.Contains(c.lines.Text(), words) {
			return c.lines.Text()
		}
	}
	t.Fatalf("it ended without %q: %v", words, c.Wait())
	return ""
}

func (c *child) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := c.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// ended waits for the end, which must be a good one and soon.
func (c *child) ended(t *testing.T, within time.Duration) {
	t.Helper()
	asked := time.Now()
	for c.lines.Scan() {
	}
	if err := c.Wait(); err != nil || time.Since(asked) > within {
		t.Errorf("it ended with %v after %v", err, time.Since(asked))
	}
}

func serving(t *testing.T) (c *child, address string) {
	t.Helper()
	nats := journaltest.Start(t)
	journaltest.Connect(t, nats.URL)
	c = launch(t, []string{"NATS_URL=" + nats.URL, "RAY_ADDRESS=http://127.0.0.1:9", "KEEPER=false"}, "serve")
	_, address, _ = strings.Cut(c.await(t, "msg=serving address=127.0.0.1"), "address=")
	c.await(t, "msg=ready")
	return c, address
}

func TestEverySignalStopsIt(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		c, _ := serving(t)
		c.signal(t, signal)
		c.ended(t, drainTimeout*3/4)
	}
}

// What is under way may end, until it is asked a second time.
func TestASecondCtrlC(t *testing.T) {
	t.Parallel()
	c, address := serving(t)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n"+
		"Ce-Specversion: 1.0\r\nCe-Id: 1\r\nCe-Source: /t\r\nCe-Type: ray_executor.v1.GetStatusRequest\r\nContent-Type: application/json\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v", line, err) // it reads the body, and so the request is under way
	}
	asked := time.Now()
	c.signal(t, syscall.SIGINT)
	time.AfterFunc(2*secondAfter, func() { _ = c.Process.Signal(syscall.SIGINT) })
	c.ended(t, drainTimeout*3/4)
	if took := time.Since(asked); took < 2*secondAfter {
		t.Errorf("it did not wait for what was under way: %v", took)
	}
	if rest, err := io.ReadAll(conn); err == nil && len(rest) > 0 {
		t.Errorf("answered %q", rest)
	}
}

// A dev whose terminal is closed while Ray starts stops what it has started.
func TestDevHangsUp(t *testing.T) {
	t.Parallel()
	venv := t.TempDir()
	for name, text := range map[string]string{"python": "#!/bin/sh\nexec /bin/sh \"$@\"\n", "ray": "sleep 300"} {
		path := filepath.Join(venv, "bin", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(t.TempDir(), "data")
	c := launch(t, nil, "dev", "--venv", venv, "--data", data)
	c.await(t, "starting Ray")
	if _, err := claimFolder(data); err == nil {
		t.Error("its folder is not its own")
	}
	c.signal(t, syscall.SIGHUP)
	c.ended(t, time.Minute)
	folder, err := claimFolder(data)
	if err != nil {
		t.Fatal(err)
	}
	folder.release()
}
