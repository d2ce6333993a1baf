package conformance_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

// python is the door of the Python client (clients/python). Each call is one of
// the client's own, in a child process that clients/python/tests/door.py is.
type python struct {
	t    *testing.T
	url  string
	mode string // blocking or asyncio

	mu   sync.Mutex
	idle []*pythonChild
}

// pythonDoors are the blocking client and the one for asyncio, until the test
// ends.
func pythonDoors(t *testing.T, url string) []door {
	t.Helper()
	var doors []door
	for _, mode := range []string{"blocking", "asyncio"} {
		f := &python{t: t, url: url, mode: mode}
		t.Cleanup(f.close)
		doors = append(doors, f)
	}
	return doors
}

func (f *python) name() string {
	if f.mode == "asyncio" {
		return "Python asyncio"
	}
	return "Python"
}

// raised are the classes of the client's errors.
var raised = map[string]string{
	ok: "ok", invalid: "InvalidArgument", conflict: "Conflict", tooLarge: "TooLarge",
	notFound: "NotFound", limitReached: "LimitReached", unavailable: "Unavailable",
}

func (f *python) wire(_ proto.Message, code string, _ bool) string { return raised[code] }

// sendsBytes is about the doors that can send what is no message: a typed
// client cannot.
func sendsBytes(f door) bool { _, is := f.(*python); return !is }

// pythonLine is what a child prints: an event of a watch, or an outcome.
type pythonLine struct {
	Event      []byte `json:"event"`
	Code       string `json:"code"`
	Wire       string `json:"wire"`
	Field      string `json:"field"`
	ID         string `json:"id"`
	Detail     string `json:"detail"`
	RetryAfter string `json:"retry_after"`
	Reply      []byte `json:"reply"`
}

func (l *pythonLine) outcome() *outcome {
	return &outcome{code: l.Code, wire: l.Wire, field: l.Field, id: l.ID, detail: l.Detail, retryAfter: l.RetryAfter}
}

func (f *python) call(ctx context.Context, c call) (*outcome, error) {
	child, err := f.take()
	if err != nil {
		return nil, err
	}
	line, err := child.ask(ctx, c)
	if err != nil {
		child.end()
		return nil, err
	}
	f.giveBack(child)
	o := line.outcome()
	if o.code == ok {
		o.reply = replyTo(c.request)
		err = proto.Unmarshal(line.Reply, o.reply)
	}
	return o, err
}

// watch has a child of its own, which it ends: that is how a caller leaves.
func (f *python) watch(ctx context.Context, request *pb.WatchDeliberationRequest, each func(*pb.WatchDeliberationResponse) bool) (*outcome, error) {
	child, err := f.start()
	if err != nil {
		return nil, err
	}
	defer child.end()
	defer context.AfterFunc(ctx, child.end)()
	for line, err := child.ask(ctx, call{request: request}); ; line, err = child.read() {
		if err != nil || line.Event == nil {
			return line.outcome(), err
		}
		event := new(pb.WatchDeliberationResponse)
		if err := proto.Unmarshal(line.Event, event); err != nil || !each(event) {
			return &outcome{code: ok, wire: ok}, err
		}
	}
}

// take returns a child that no other call has: calls at the same time have a
// child each.
func (f *python) take() (*pythonChild, error) {
	f.mu.Lock()
	if n := len(f.idle); n > 0 {
		child := f.idle[n-1]
		f.idle = f.idle[:n-1]
		f.mu.Unlock()
		return child, nil
	}
	f.mu.Unlock()
	return f.start()
}

func (f *python) giveBack(child *pythonChild) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.idle = append(f.idle, child)
}

func (f *python) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, child := range f.idle {
		child.end()
	}
	f.idle = nil
}

// pythonChild is a process of door.py.
type pythonChild struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	once    sync.Once
}

func (f *python) start() (*pythonChild, error) {
	client := filepath.Join(system.Root(), "clients", "python")
	command := exec.Command(filepath.Join(system.Root(), ".tools", "python-client", "bin", "python"), filepath.Join(client, "tests", "door.py"), f.url, f.mode)
	command.Env = append(os.Environ(), "PYTHONPATH="+client, "PYTHONDONTWRITEBYTECODE=1")
	command.Stderr = f.t.Output()
	in, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("%w (`make test-go` makes the environment)", err)
	}
	return &pythonChild{command: command, in: in, out: bufio.NewReader(out)}, nil
}

func (c *pythonChild) ask(ctx context.Context, one call) (*pythonLine, error) {
	data, err := proto.Marshal(one.request)
	if err != nil {
		return nil, err
	}
	asked, err := json.Marshal(map[string]any{"method": method(one.request), "request": data, "trace": one.trace})
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, c.end)()
	if _, err := c.in.Write(append(asked, '\n')); err != nil {
		return nil, err
	}
	return c.read()
}

func (c *pythonChild) read() (*pythonLine, error) {
	line := new(pythonLine)
	text, err := c.out.ReadBytes('\n')
	if err != nil {
		return line, fmt.Errorf("the Python client has ended: %w", err)
	}
	return line, json.Unmarshal(text, line)
}

// end ends the process. Ending it twice is fine.
func (c *pythonChild) end() {
	c.once.Do(func() {
		_ = c.command.Process.Kill() // it may have ended
		_ = c.command.Wait()
	})
}
