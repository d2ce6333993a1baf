package serve_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

// post is what a sink was sent.
type post struct{ id, kind, team, body string }

// sink is an HTTP endpoint that answers 400 while refuses is set.
type sink struct {
	*httptest.Server
	posts   chan post
	refuses atomic.Bool
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{posts: make(chan post, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if s.refuses.Load() {
			http.Error(w, "not today", http.StatusBadRequest)
		}
		select {
		case s.posts <- post{r.Header.Get("Ce-Id"), r.Header.Get("Ce-Type"), r.Header.Get("Ce-Team"), string(body)}:
		case <-t.Context().Done(): // a test that failed reads no more
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) next(t *testing.T) post {
	t.Helper()
	return await.Receive(t, "a post", s.posts)
}

// TestSink posts ends to a sink. An end that the sink refused is stored, and sent
// again on request.
func TestSink(t *testing.T) {
	t.Parallel()
	s := newSink(t)
	sys := setup(t, "K_SINK="+s.URL, `K_CE_OVERRIDES={"extensions":{"team":"blue"}}`, "AGENT_RESPONSES=true")
	cancelled(t, sys, "one")
	if got := s.next(t); got.id != "one.done" || got.kind != "ray_executor.v1.DeliberationCancelled" || got.team != "blue" || !strings.Contains(got.body, `"reason":"enough"`) {
		t.Errorf("posted %+v", got)
	}
	s.refuses.Store(true)
	cancelled(t, sys, "two")
	s.next(t)
	listed := run(t, sys, "two", "relay", "list")
	if !strings.Contains(listed, "the sink answered 400 Bad Request: not today") || strings.Contains(listed, "one ") {
		t.Errorf("listed\n%s", listed)
	}
	run(t, sys, "1 of 1 were refused and remain on the list", "relay", "retry", "two")
	s.refuses.Store(false)
	run(t, sys, "two sent", "relay", "retry", "--all")
	s.next(t)
	if got := s.next(t); got.id != "two.done" {
		t.Errorf("sent again as %+v", got)
	}
	run(t, sys, "deliberation two has no undelivered end", "relay", "retry", "two")
	run(t, sys, "or --all", "relay", "retry")
}

func TestRelayWithoutASink(t *testing.T) {
	t.Parallel()
	run(t, system.Make(t, system.Options{}), "K_SINK is not set", "relay")
}

func cancelled(t *testing.T, sys *system.System, id string) {
	t.Helper()
	submitted := request(id)
	submitted.VllmUrl = "http://127.0.0.1:9"
	sys.Submit(t, submitted)
	sys.Cancel(t, id, "enough")
}

// run repeats a command until it prints some words: the keeper and the relay
// change what it reads in their own time.
func run(t *testing.T, sys *system.System, want string, args ...string) (printed string) {
	t.Helper()
	await.NoError(t, strings.Join(args, " "), func() (err error) {
		if printed, err = sys.Run(t.Context(), args...); !strings.Contains(printed, want) {
			return fmt.Errorf("printed %q, not %q: %w", printed, want, err)
		}
		return nil
	})
	return printed
}
