package relay

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-1": 0, "soon": 0, "99999999999": time.Hour, "86400": time.Hour,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
		now.Add(24 * time.Hour).Format(http.TimeFormat): time.Hour,
	} {
		if got := retryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestWhatIsTriedAgain(t *testing.T) {
	t.Parallel()
	again := map[int]bool{404: true, 408: true, 409: true, 429: true, 500: true, 502: true, 503: true, 504: true}
	for status := 300; status < 512; status++ {
		if want := again[status] || status >= 500; retriable(status) != want {
			t.Errorf("%d: %v, want %v", status, !want, want)
		}
	}
}

// keepJournal is a journal that only stores undelivered ends.
type keepJournal struct {
	Journal

	err    error
	stored []string
}

func (j *keepJournal) StoreUndelivered(_ context.Context, _ journal.Delivery, reason string) error {
	j.stored = append(j.stored, reason)
	return j.err
}

func (*keepJournal) MaxAnnouncement() int { return 1 << 20 }

func (*keepJournal) Offload(_ context.Context, m proto.Message) (proto.Message, error) { return m, nil }

func (*keepJournal) ReadUndelivered(context.Context, string) iter.Seq2[journal.Undelivered, error] {
	return func(yield func(journal.Undelivered, error) bool) { yield(journal.Undelivered{}, errors.New("away")) }
}

// journalTime is what the journal's clock says; this machine's is years off.
var journalTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

func (*keepJournal) Now(context.Context) (time.Time, error) { return journalTime, nil }

// TestGivingUp: when an end is stored as undelivered. It does not wait for it.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	old, young := journalTime.Add(-2*time.Hour), journalTime
	for name, test := range map[string]struct {
		status  int
		attempt uint64
		ended   time.Time
		keep    error
		stored  bool
		again   bool
	}{
		"refused for good":            {status: 400, attempt: 1, ended: young, stored: true},
		"first time":                  {status: 500, attempt: 1, ended: young, again: true},
		"old, but hardly tried":       {status: 500, attempt: minAttempts - 1, ended: old, again: true},
		"tried a lot, but young":      {status: 500, attempt: 100, ended: young, again: true},
		"old and tried":               {status: 500, attempt: minAttempts, ended: old, stored: true},
		"nowhere to store it":         {status: 400, attempt: 1, ended: young, keep: errors.New("full"), stored: true},
		"taken":                       {status: 202, attempt: 1, ended: young},
		"a redirect is not an answer": {status: 302, attempt: 1, ended: young, stored: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
			}))
			defer server.Close()
			sink, err := NewSink(SinkOptions{URL: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			j := &keepJournal{err: test.keep}
			relay := New(j, sink, Options{Patience: time.Hour}, slog.New(slog.DiscardHandler))
			err = relay.relay(t.Context(), journal.Delivery{
				Attempt: test.attempt,
				Entry:   deliberation.Entry{Time: test.ended, Event: &pb.DeliberationCompleted{DeliberationId: "d1"}},
			})
			_, again := errors.AsType[*journal.LaterError](err)
			if again != test.again || (len(j.stored) == 1) != test.stored || !again && !errors.Is(err, test.keep) {
				t.Errorf("again %v, stored %v, %v", again, j.stored, err)
			}
		})
	}
}

func TestASinkThatCannotBe(t *testing.T) {
	t.Parallel()
	if _, err := NewSink(SinkOptions{URL: "https://sink", CACerts: "no certificate"}); err == nil {
		t.Error("no certificate is accepted")
	}
	sink, err := NewSink(SinkOptions{URL: "http://bad url"})
	if err != nil {
		t.Fatal(err)
	}
	relay := New(&keepJournal{}, sink, Options{}, slog.New(slog.DiscardHandler))
	refused, ok := errors.AsType[*refusal](relay.post(t.Context(), journal.Delivery{
		Entry: deliberation.Entry{Event: &pb.DeliberationFailed{DeliberationId: "d1"}},
	}))
	if !ok || !refused.permanent {
		t.Errorf("a URL that is none: %v", refused)
	}
	if err := relay.Resend(t.Context(), "", nil); err == nil {
		t.Error("a list that cannot be read is passed over")
	}
}
