package standin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"rayexecutor/standin"
)

// locked is a buffer that handlers may still write to.
type locked struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

func TestServe(t *testing.T) {
	t.Parallel()
	var said locked
	s, err := standin.New(standin.Options{
		Behaviours: map[string]standin.Behaviour{"hang": {Hang: true}, slow: {Delay: 200 * time.Millisecond}, "never": {Delay: time.Hour}},
		Grace:      time.Second,
		Logger:     slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()

	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	post := func(model string) <-chan int {
		got := make(chan int, 1)
		go func() {
			res, err := client.Post("http://"+listener.Addr().String()+path, "application/json",
				strings.NewReader(strings.Replace(body, "m1", model, 1)))
			if err != nil {
				got <- 0
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			got <- res.StatusCode
		}()
		return got
	}
	hang, late, never := post("hang"), post(slow), post("never")
	wait(t, s, func(n standin.Snapshot) bool {
		return n.Of("hang").Running+n.Of(slow).Running+n.Of("never").Running == 3
	})
	cancel()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if h, w, n := <-hang, <-late, <-never; h != 0 || w != 200 || n != 0 {
		t.Errorf("hanging %d, slow %d, never %d; want 0, 200, 0", h, w, n)
	}
	wait(t, s, func(n standin.Snapshot) bool { return n.Running == 0 && n.ServerClosed == 2 })
	if text := said.String(); !strings.Contains(text, "outcome=answered") || !strings.Contains(text, "has stopped") {
		t.Errorf("the log: %s", text)
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	err = standin.Serve(t.Context(), standin.Options{Address: listener.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), "set another address") {
		t.Errorf("a taken port: %v", err)
	}
	if err := standin.Serve(t.Context(), standin.Options{Address: "x"}); err == nil {
		t.Error("a wrong address was taken")
	}
	s, err := standin.New(standin.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := s.Serve(t.Context(), listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener: %v", err)
	}
}
