// Package vllm runs a real vLLM on the CPU for tests: a tiny model with random
// weights, made on the spot, so nothing comes from a hub. up.sh installs it
// (once: 6.2 GB, 2 to 4 minutes) and starts it (50 to 90 s, 4 GB).
//
// An answer is some 60 random words, about 0.3 s. A conversation that contains
// [Slow] gets an answer that runs for about a minute, unless its client goes.
package vllm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"rayexecutor/tests/freeport"
)

const (
	// Model is the name of the only model.
	Model = "tiny"
	// Slow makes the model's answer long, wherever it stands in a
	// conversation.
	Slow = "[slow]"

	apiKey     = "sesame"
	startLimit = 12 * time.Minute // with the installation
	stopLimit  = 30 * time.Second
	// gauge is the metric that counts the requests under way.
	gauge = "vllm:num_requests_running"
)

// Server is a vLLM that runs.
type Server struct {
	// URL is its base URL, without /v1.
	URL string
	// Model is the model's name.
	Model string
	// APIKey is wanted as bearer token on /v1.
	APIKey string

	script string
	port   string
}

// Launch installs vLLM where that is missing and starts one; call Stop at the
// end. Should this process die without it, up.sh stops the server. It wants
// Linux on x86_64.
func Launch(ctx context.Context) (*Server, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return nil, errors.New("vllm: where is up.sh? Run the test without -trimpath")
	}
	port, err := freeport.Take()
	if err != nil {
		return nil, err
	}
	s := &Server{
		URL: "http://127.0.0.1:" + strconv.Itoa(port), Model: Model, APIKey: apiKey,
		script: filepath.Join(filepath.Dir(file), "up.sh"), port: strconv.Itoa(port),
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := s.run(ctx, "start"); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// Stop stops the server, engine included. Stopping twice is fine.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	return s.run(ctx, "stop")
}

// run runs up.sh with this server's settings. Cancelling interrupts the
// script, which then stops what it has started.
func (s *Server) run(ctx context.Context, what string) error {
	command := exec.CommandContext(ctx, "bash", s.script, what)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = stopLimit
	command.Env = append(os.Environ(), "HOST=127.0.0.1", "PORT="+s.port, "NAME="+s.Model, "API_KEY="+s.APIKey,
		"OWNER="+strconv.Itoa(os.Getpid()))
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		return fmt.Errorf("vllm: up.sh %s: %w\n%s", what, err, said.String())
	}
	return nil
}

// Running is how many requests the engine works on, by vLLM's own metric,
// which it renews with every step.
func (s *Server) Running(ctx context.Context) (float64, error) { return s.metric(ctx, gauge) }

// Prefixes are how many tokens of prompts were looked up in the cache of
// prefixes so far, and how many of them were there.
func (s *Server) Prefixes(ctx context.Context) (queried, hit float64, err error) {
	if queried, err = s.metric(ctx, "vllm:prefix_cache_queries_total"); err != nil {
		return 0, 0, err
	}
	hit, err = s.metric(ctx, "vllm:prefix_cache_hits_total")
	return queried, hit, err
}

// Tokens are how many tokens of prompts the server has read so far, and how many it
// has generated.
func (s *Server) Tokens(ctx context.Context) (read, generated float64, err error) {
	if read, err = s.metric(ctx, "vllm:prompt_tokens_total"); err != nil {
		return 0, 0, err
	}
	generated, err = s.metric(ctx, "vllm:generation_tokens_total")
	return read, generated, err
}

func (s *Server) metric(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("vllm: metrics: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("vllm: metrics: %s", res.Status)
	}
	return sum(res.Body, name)
}

// sum adds up a metric's samples.
func sum(text io.Reader, metric string) (float64, error) {
	total, found := 0.0, false
	for lines := bufio.NewScanner(text); lines.Scan(); {
		rest, ok := strings.CutPrefix(lines.Text(), metric+"{")
		if !ok {
			continue
		}
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("vllm: %s: %w", lines.Text(), err)
		}
		total, found = total+value, true
	}
	if !found {
		return 0, fmt.Errorf("vllm: no metric %s: is this another version?", metric)
	}
	return total, nil
}

// WaitRunning returns once so many requests run.
func (s *Server) WaitRunning(ctx context.Context, want float64) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		got, err := s.Running(ctx)
		if err != nil {
			return err
		}
		if got == want {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("vllm: %v requests run, waiting for %v: %w", got, want, context.Cause(ctx))
		}
	}
}
