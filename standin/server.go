package standin

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Server is the stand-in: an HTTP handler. It is safe for concurrent use.
type Server struct {
	options    Options
	log        *slog.Logger
	behaviours *behaviours
	record     *record
	mux        *http.ServeMux
	started    time.Time

	draining chan struct{} // closed: hanging requests end
	closed   chan struct{} // closed: every request ends
	drain    func()
	abort    func()
}

// New makes a Server; the error names every option that is wrong.
func New(o Options) (*Server, error) {
	o = o.withDefaults()
	ready, err := newBehaviours(o)
	if err = errors.Join(o.validate(), err); err != nil {
		return nil, fmt.Errorf("standin: %w", err)
	}
	s := &Server{
		options: o, log: o.Logger, behaviours: ready, record: newRecord(o.Record, o.RecordText),
		started:  time.Now(),
		draining: make(chan struct{}), closed: make(chan struct{}),
	}
	s.drain = sync.OnceFunc(func() { close(s.draining) })
	s.abort = sync.OnceFunc(func() { close(s.closed) })
	s.mux = s.routes()
	return s, nil
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.Handle("GET /metrics", metricsHandler(s.record))
	mux.HandleFunc("GET /standin/behaviours/{model...}", s.getBehaviour)
	mux.HandleFunc("PUT /standin/behaviours/{model...}", s.putBehaviour)
	mux.HandleFunc("DELETE /standin/behaviours/{model...}", s.deleteBehaviour)
	mux.HandleFunc("GET /standin/requests", s.getRequests)
	mux.HandleFunc("DELETE /standin/requests", s.deleteRequests)
	return mux
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.authorized(r) {
		s.refuseUnauthorized(w, r)
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.refuseRoute(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// authorized reports whether the request may pass; /health and /metrics are
// open, as they are with vLLM.
func (s *Server) authorized(r *http.Request) bool {
	if s.options.APIKey == "" || r.URL.Path == "/health" || r.URL.Path == "/metrics" {
		return true
	}
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && subtle.ConstantTimeCompare([]byte(key), []byte(s.options.APIKey)) == 1
}

func (s *Server) refuseUnauthorized(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.URL.Path == "/v1/chat/completions" {
		s.record.end(s.record.begin(), Answered, http.StatusUnauthorized, "")
	}
	writeBody(w, http.StatusUnauthorized, []byte(bodyUnauthorized))
}

// refuseRoute answers what the mux has no route for, as FastAPI does.
func (s *Server) refuseRoute(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(probe); pattern != "" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		writeBody(w, http.StatusNotFound, []byte(bodyNotFound))
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	writeBody(w, http.StatusMethodNotAllowed, []byte(bodyNotAllowed))
}

// models lists the models that exist; where every model does, those that were
// asked for.
func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	list := struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", []model{}}
	for _, name := range s.modelNames() {
		list.Data = append(list.Data, model{name, "model", s.started.Unix(), "standin"})
	}
	writeJSON(w, http.StatusOK, list)
}

func (s *Server) modelNames() []string {
	if len(s.options.Models) > 0 {
		return s.options.Models
	}
	names := []string{defaultModel}
	for name := range s.Snapshot().Models {
		if name != defaultModel && name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names[1:])
	return names
}

// SetBehaviour sets what a model does from its next request on, and counts
// its requests from 1 again. No model means all that have no behaviour of
// their own.
func (s *Server) SetBehaviour(model string, b Behaviour) error {
	if model != "" {
		if err := s.options.checkServed(model); err != nil {
			return fmt.Errorf("standin: %w", err)
		}
	}
	if err := s.behaviours.set(model, b); err != nil {
		return fmt.Errorf("standin: behaviour of %q: %w", model, err)
	}
	return nil
}

// ClearBehaviour takes a model's own behaviour away. No model means that all
// that have none of their own go back to the zero Behaviour.
func (s *Server) ClearBehaviour(model string) { s.behaviours.unset(model) }

// Behaviour is what a model does, with the defaults filled in.
func (s *Server) Behaviour(model string) Behaviour { return s.behaviours.get(model) }

// Requests are the last requests, oldest first.
func (s *Server) Requests() []Request { return s.record.requests() }

// Snapshot is the counts now.
func (s *Server) Snapshot() Snapshot { return s.record.snapshot() }

// Wait returns nil once the counts are as wanted; it looks again whenever
// they change. The error has the last counts.
func (s *Server) Wait(ctx context.Context, wanted func(Snapshot) bool) error {
	return s.record.wait(ctx, wanted)
}

// Reset empties the record. Requests under way continue; they count as running
// but no longer in the totals.
func (s *Server) Reset() { s.record.reset() }

// Close ends the requests that hang or wait, by closing their connections;
// later ones are answered 503. Closing twice is fine. Close the Server before
// an httptest.Server that serves it, which waits for its requests.
func (s *Server) Close() {
	s.drain()
	s.abort()
}

// Serve serves on the address of the options until ctx is done; then requests
// under way have the grace to end, and nil is returned.
func Serve(ctx context.Context, o Options) error {
	s, err := New(o)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("standin: %w; set another address, or stop what listens there", err)
	}
	return s.Serve(ctx, listener)
}

// idleTimeout is uvicorn's, so vLLM's: a client has to bear that a connection
// is closed under its hands.
const idleTimeout = 5 * time.Second

// Serve serves on the listener, which it closes, until ctx is done; then
// requests under way have the grace to end, and nil is returned.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       idleTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	s.log.InfoContext(ctx, "stand-in model server is up", "url", "http://"+listener.Addr().String())
	select {
	case err := <-failed:
		s.Close()
		return fmt.Errorf("standin: %w", err)
	case <-ctx.Done():
	}
	err := s.shutdown(context.WithoutCancel(ctx), server)
	<-failed //nolint:errcheck // it is http.ErrServerClosed now
	s.settle(context.WithoutCancel(ctx))
	s.log.InfoContext(ctx, "stand-in model server has stopped", "requests", s.Snapshot().Total)
	return err
}

// settle waits until the requests that were ended have noticed.
func (s *Server) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = s.Wait(ctx, func(n Snapshot) bool { return n.Running == 0 }) // what then still runs ends with the process
}

// shutdown lets requests end within the grace, and then ends them.
func (s *Server) shutdown(ctx context.Context, server *http.Server) error {
	s.drain()
	defer s.abort()
	grace, cancel := context.WithTimeout(ctx, s.options.Grace)
	defer cancel()
	if err := server.Shutdown(grace); err == nil {
		return nil
	}
	s.abort()
	if err := server.Close(); err != nil {
		return fmt.Errorf("standin: closing: %w", err)
	}
	return nil
}
