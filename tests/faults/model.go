package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"rayexecutor/standin"
)

// What the models do when nothing is wrong.
var healthy = map[string]standin.Behaviour{
	Quick:  {Delay: 30 * time.Millisecond},
	Slow:   {Delay: 1500 * time.Millisecond},
	Slower: {Delay: 6 * time.Second},
	Never:  {Hang: true},
}

// model is the stand-in, which also tells of each call whom it is for.
type model struct {
	*standin.Server

	server   *http.Server
	listener net.Listener
	// poisoned is told the id of a deliberation that kills whoever asks for it.
	poisoned func(id string)
}

// prompt is the whole of what an agent asks: by it a call is known.
const prompt = "|{task_description}|{agent_id}|"

var asked = regexp.MustCompile(`\|([^|]+)\|([^|]+)\|`)

// poisonMark is in the id of a deliberation that kills its worker.
const poisonMark = "-poison-"

func startModel() (*model, error) {
	server, err := standin.New(standin.Options{
		Behaviours: healthy, Record: 1_000_000, RecordText: 128, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &model{Server: server, listener: listener}
	m.server = &http.Server{Handler: m, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = m.server.Serve(listener) }() // until close
	return m, nil
}

// ServeHTTP looks for poison, and lets the stand-in answer all else.
func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller went
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if found := asked.FindSubmatch(body); found != nil && strings.Contains(string(found[1]), poisonMark) {
		go m.poisoned(string(found[1]))
	}
	m.Server.ServeHTTP(w, r)
}

// fail gives all models that answer a fault, heal takes it away again.
func (m *model) fail(fault standin.Behaviour) error {
	for _, name := range []string{Quick, Slow, Slower} {
		if err := m.SetBehaviour(name, fault); err != nil {
			return err
		}
	}
	return nil
}

func (m *model) heal() error {
	for name, behaviour := range healthy {
		if err := m.SetBehaviour(name, behaviour); err != nil {
			return err
		}
	}
	return nil
}

// Call is one that the model saw.
type Call struct {
	At time.Time
	// Answered is a 200 that was sent, at Ended.
	Answered bool
	// Left is a caller that went before it had its answer.
	Left  bool
	Ended time.Time
}

// calls are all that the model saw, by deliberation and agent.
func (m *model) calls() (map[string]map[string][]Call, error) {
	calls := map[string]map[string][]Call{}
	for _, request := range m.Requests() {
		found := asked.FindStringSubmatch(request.User)
		if request.User == "" {
			continue // the caller went before it had said anything
		}
		if found == nil {
			return nil, fmt.Errorf("the model was asked %q by nobody knows whom", request.User)
		}
		if calls[found[1]] == nil {
			calls[found[1]] = map[string][]Call{}
		}
		calls[found[1]][found[2]] = append(calls[found[1]][found[2]], Call{
			At: request.Time, Ended: request.Ended, Left: request.Outcome == standin.ClientClosed,
			Answered: request.Outcome == standin.Answered && request.Status == http.StatusOK,
		})
	}
	return calls, nil
}

func (m *model) close() error {
	m.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.server.Shutdown(ctx) != nil {
		return m.server.Close()
	}
	return nil
}
