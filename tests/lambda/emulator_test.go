package lambda_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// emulator runs the bootstrap as Lambda does.
type emulator interface {
	// invoke hands over one invocation and returns what was answered.
	invoke(ctx context.Context, payload []byte) ([]byte, error)
	// log is what the function wrote.
	log() *await.Output
}

// timeout is the function's, as its operator would set it.
const timeout = 40 * time.Second

// bootstrap is the program that `make lambda` builds for this machine.
func bootstrap(tb testing.TB) string {
	tb.Helper()
	if err := system.Build("lambda"); err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(system.Root(), "dist", "lambda", runtime.GOARCH, "bootstrap")
}

// launch starts the function: in AWS's Runtime Interface Emulator where
// LAMBDA_RIE names its program, else with a Runtime API of ours.
func launch(tb testing.TB, environ []string) emulator {
	tb.Helper()
	if rie := os.Getenv("LAMBDA_RIE"); rie != "" {
		return launchRIE(tb, rie, environ)
	}
	return launchStandIn(tb, environ)
}

// logger has the output of a process.
type logger struct{ output *await.Output }

func (l logger) log() *await.Output { return l.output }

// run starts a program that dies with this one.
func run(tb testing.TB, environ []string, name string, args ...string) (*exec.Cmd, *await.Output) {
	tb.Helper()
	out := &await.Output{}
	command := system.Command(environ, name, args...)
	command.Stdout, command.Stderr = out, out
	command.Dir = tb.TempDir()
	if err := command.Start(); err != nil {
		tb.Fatal(err)
	}
	return command, out
}

// --- AWS's Runtime Interface Emulator ---

// rie is the real emulator. It starts the bootstrap at the first invocation.
type rie struct {
	logger

	url string
}

func launchRIE(tb testing.TB, program string, environ []string) *rie {
	tb.Helper()
	address := freeport.Address(tb)
	environ = append(environ, "AWS_LAMBDA_FUNCTION_TIMEOUT="+strconv.Itoa(int(timeout.Seconds())))
	command, out := run(tb, environ, program,
		"--runtime-interface-emulator-address", address, "--runtime-api-address", freeport.Address(tb), bootstrap(tb))
	tb.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
	})
	await.NoError(tb, "the emulator to listen", func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return conn.Close()
	})
	return &rie{logger{out}, "http://" + address}
}

func (r *rie) invoke(ctx context.Context, payload []byte) ([]byte, error) {
	return post(ctx, r.url+"/2015-03-31/functions/function/invocations", payload)
}

func post(ctx context.Context, url string, payload []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// --- a Runtime API of ours ---

// standIn is the HTTP interface that Lambda gives a custom runtime, as AWS
// documents it ("Using the Lambda runtime API", "Extensions API"). Besides, it
// freezes and thaws the process, which the emulator does not.
type standIn struct {
	logger

	command *exec.Cmd
	ended   chan error
	queue   chan *pending

	mu       sync.Mutex
	underWay map[string]*pending
	count    int
}

// pending is an invocation without its answer.
type pending struct {
	id       string
	payload  []byte
	deadline time.Time
	answered chan []byte
}

func launchStandIn(tb testing.TB, environ []string) *standIn {
	tb.Helper()
	s := &standIn{queue: make(chan *pending), underWay: make(map[string]*pending), ended: make(chan error, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", s.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{outcome}", s.answer)
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Lambda-Extension-Identifier", "test")
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(mux)
	environ = append(environ, "AWS_LAMBDA_RUNTIME_API="+strings.TrimPrefix(server.URL, "http://"))
	s.command, s.output = run(tb, environ, bootstrap(tb))
	go func() {
		s.ended <- s.command.Wait() // once the output is read to its end
		s.output.Close()
	}()
	tb.Cleanup(func() {
		_ = s.command.Process.Kill()
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

func (s *standIn) next(w http.ResponseWriter, r *http.Request) {
	select {
	case invocation := <-s.queue:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", invocation.id)
		w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(invocation.deadline.UnixMilli(), 10))
		w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:123456789012:function:ray-executor")
		_, _ = w.Write(invocation.payload)
	case <-r.Context().Done():
	}
}

func (s *standIn) answer(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	invocation := s.underWay[r.PathValue("id")]
	delete(s.underWay, r.PathValue("id"))
	s.mu.Unlock()
	if invocation == nil {
		http.Error(w, "no such invocation", http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	invocation.answered <- body
}

var errEnded = errors.New("the function's process has ended")

func (s *standIn) invoke(ctx context.Context, payload []byte) ([]byte, error) {
	s.mu.Lock()
	s.count++
	invocation := &pending{
		id: fmt.Sprintf("invocation-%d", s.count), payload: payload,
		deadline: time.Now().Add(timeout), answered: make(chan []byte, 1),
	}
	s.underWay[invocation.id] = invocation
	s.mu.Unlock()
	ctx, cancel := context.WithDeadline(ctx, invocation.deadline)
	defer cancel()
	select {
	case s.queue <- invocation:
	case err := <-s.ended:
		return nil, errors.Join(errEnded, err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case answer := <-invocation.answered:
		return answer, nil
	case err := <-s.ended:
		return nil, errors.Join(errEnded, err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// freeze stops the process as Lambda does between invocations.
func (s *standIn) freeze() error { return s.command.Process.Signal(syscall.SIGSTOP) }

func (s *standIn) thaw() error { return s.command.Process.Signal(syscall.SIGCONT) }
