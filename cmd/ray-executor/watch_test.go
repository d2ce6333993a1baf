package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/freeport"
)

// screen is an output that a test reads while a command writes to it.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(data []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(data)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) await(t *testing.T, words string) {
	t.Helper()
	timeout, ticker := time.After(30*time.Second), time.NewTicker(10*time.Millisecond)
	defer ticker.Stop()
	for !strings.Contains(s.String(), words) {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("printed %q, which lacks %q", s, words)
		}
	}
}

// begin runs a command in the background.
func begin(ctx context.Context, environ []string, args ...string) (out, errors *screen, ended <-chan error) {
	out, errors = &screen{}, &screen{}
	result := make(chan error, 1)
	go func() { result <- program{args: args, environ: environ, out: out, errors: errors}.run(ctx) }()
	return out, errors, result
}

// served returns the environment of a server on a port that can be used again,
// its URL, and that of its NATS.
func served(t *testing.T) (environ []string, url, natsURL string) {
	t.Helper()
	nats := journaltest.Start(t)
	journaltest.Connect(t, nats.URL)
	port := freeport.For(t)
	return []string{
		"NATS_URL=" + nats.URL, "RAY_ADDRESS=http://127.0.0.1:9", "VLLM_URL=http://127.0.0.1:9", "VLLM_MODEL=none",
		"KEEPER=false", "LOG_LEVEL=ERROR", "GRPC_PORT=0", "PORT=" + strconv.Itoa(port),
	}, "http://localhost:" + strconv.Itoa(port), nats.URL
}

// TestWaitSurvivesARestart stops the server while a command waits, and starts it
// again. The command continues: it shows each event once, and the end.
func TestWaitSurvivesARestart(t *testing.T) {
	t.Parallel()
	environ, url, _ := served(t)
	_, stop := startServer(t, environ)
	out, errors, ended := begin(t.Context(), nil, "submit", "Describe it", "--id", "d", "--wait", "--server", url)
	out.await(t, "queued")
	stop()
	errors.await(t, "connection lost, trying again for 2m0s")
	startServer(t, environ)
	if printed, err := runProgram(t.Context(), nil, "cancel", "d", "--server", url); err != nil {
		t.Fatal(printed, err)
	}
	if err := <-ended; exitCode(err) != exitFailed || !strings.Contains(err.Error(), "deliberation d is cancelled") {
		t.Errorf("it ended with %v", err)
	}
	if printed := out.String(); strings.Count(printed, "queued") != 1 || !strings.Contains(printed, "cancelled after") {
		t.Errorf("printed %q", printed)
	}
}

// TestWaitEndsWithoutAServer gives up after the time of --reconnect, and says how
// to continue.
func TestWaitEndsWithoutAServer(t *testing.T) {
	t.Parallel()
	environ, url, _ := served(t)
	_, stop := startServer(t, environ)
	out, _, ended := begin(t.Context(), nil, "submit", "Describe it", "--id", "d", "--wait", "--reconnect", "300ms", "--server", url)
	out.await(t, "queued")
	stop()
	err := <-ended
	if exitCode(err) != exitUnavailable || !strings.Contains(err.Error(), "`ray-executor watch d --server "+url+"`") {
		t.Errorf("it ended with %v", err)
	}
}

// TestAWatchAsksOnce counts the calls of a wait: submit, one stream, and the
// status at the end.
func TestAWatchAsksOnce(t *testing.T) {
	t.Parallel()
	environ, server, nats := served(t)
	startServer(t, environ)
	target, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.FlushInterval = -1
	// Its own: other tests' servers close connections of the default transport.
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	forward.Transport = transport
	counting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		forward.ServeHTTP(w, r)
	}))
	defer counting.Close()
	out, _, ended := begin(t.Context(), nil, "submit", "Describe it", "--id", "d", "--wait", "--server", counting.URL)
	out.await(t, "queued")
	if _, started, err := journaltest.NewWorker(t, nats).Started(t.Context(), "d", 1, time.Time{}, 0); err != nil || !started {
		t.Fatal(started, err)
	}
	out.await(t, "running") // a poll needs a call for each state that it prints
	if _, err := runProgram(t.Context(), nil, "cancel", "d", "--server", server); err != nil {
		t.Fatal(err)
	}
	<-ended
	if calls.Load() != 3 {
		t.Errorf("it made %d calls", calls.Load())
	}
}

// TestAnInterruptedWait prints the id on standard error before it waits, and
// exits with 130 after Ctrl-C. Standard output has no line that is not JSON.
func TestAnInterruptedWait(t *testing.T) {
	t.Parallel()
	environ, server, _ := served(t)
	startServer(t, environ)
	for signal, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		ctx, cancel := context.WithCancelCause(t.Context())
		out, errors, ended := begin(ctx, nil, "submit", "Describe it", "--id", fmt.Sprint("d", code), "--wait", "-o", "json", "--server", server)
		errors.await(t, fmt.Sprintf("d%d submitted", code))
		cancel(signalError{signal})
		err := <-ended
		if exitCode(err) != code || !strings.Contains(err.Error(), fmt.Sprintf("interrupted: deliberation d%d continues", code)) {
			t.Errorf("after %v it ended with %d, %v", signal, exitCode(err), err)
		}
		if out.String() != "" {
			t.Errorf("printed %q", out)
		}
	}
}
