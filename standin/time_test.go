package standin_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rayexecutor/standin"
)

// clocked notes when each write was flushed.
type clocked struct {
	*httptest.ResponseRecorder

	start time.Time
	at    []time.Duration
}

func (c *clocked) Flush() { c.at = append(c.at, time.Since(c.start)) }

func ask(s *standin.Server, body string) *clocked {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := &clocked{ResponseRecorder: httptest.NewRecorder(), start: time.Now()}
	s.ServeHTTP(w, r)
	return w
}

func TestDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := standin.New(standin.Options{
			Default: standin.Behaviour{Delay: 3 * time.Minute, Content: "one two three four five six"},
			Logger:  slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		whole := ask(s, body)
		if took := time.Since(whole.start); took != 3*time.Minute || whole.Code != 200 {
			t.Errorf("took %v, status %d", took, whole.Code)
		}
		stream := ask(s, streamBody)
		if took := time.Since(stream.start).Round(time.Second); took != 3*time.Minute {
			t.Errorf("the stream took %v", took)
		}
		// Headers, role, six words, the end.
		if n := len(stream.at); n != 9 || stream.at[0] != 0 || stream.at[4].Round(time.Second) != 77*time.Second {
			t.Errorf("flushed at %v", stream.at)
		}
		r := s.Requests()[0]
		if took := r.Ended.Sub(r.Time); took != 3*time.Minute {
			t.Errorf("the record says %v", took)
		}
		set(t, s, "m1", standin.Behaviour{Delay: time.Second, Status: 500})
		refused := ask(s, streamBody)
		if took := time.Since(refused.start); took != time.Second || refused.Code != 500 {
			t.Errorf("the refusal took %v, status %d", took, refused.Code)
		}
	})
}
