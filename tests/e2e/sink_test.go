package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"rayexecutor/events"
	"rayexecutor/tests/await"
)

// ends is an HTTP sink that the suite's system posts every end to.
type ends struct {
	*httptest.Server

	mu     sync.Mutex
	posted map[string]sunk
	news   chan struct{} // closed and replaced at each post
}

// sunk is an end as the sink has seen it.
type sunk struct {
	kind string
	data endData
}

func newSink() *ends {
	s := &ends{posted: make(map[string]sunk), news: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	return s
}

func (s *ends) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	end := sunk{kind: r.Header.Get("Ce-Type")}
	if err := json.Unmarshal(body, &end.data); err != nil || r.Header.Get("Content-Type") != events.JSON {
		http.Error(w, "no JSON", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posted[r.Header.Get("Ce-Id")] = end
	close(s.news)
	s.news = make(chan struct{})
}

// await waits for the event of an id.
func (s *ends) await(t *testing.T, id string) sunk {
	t.Helper()
	timeout := time.After(await.Limit)
	for {
		s.mu.Lock()
		end, there := s.posted[id]
		news := s.news
		s.mu.Unlock()
		if there {
			return end
		}
		select {
		case <-news:
		case <-timeout:
			t.Fatalf("%s was not posted", id)
		}
	}
}
