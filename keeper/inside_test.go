package keeper

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds bytes against a file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; a new one is written by: go test ./keeper -update", err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("%s\ngot  %s\nwant %s", name, got, want)
	}
}

func asked() *pb.DeliberationRequested {
	return &pb.DeliberationRequested{
		DeliberationId: "d-1", TaskId: "t-1", TimeoutSeconds: 300, MaxRetries: 3, VllmModel: "base",
		Request: &pb.ExecuteDeliberationRequest{
			TaskId: "t-1", Role: "DEV", Agents: []*pb.Agent{{Id: "a"}, {Id: "b", Role: "QA", Model: "own"}},
			Constraints: &pb.TaskConstraints{StoryId: "s-1", PlanId: "p-1", Metadata: map[string]string{"k": "v"}},
		},
	}
}

// TestResponseBytes holds what Python consumers read, byte for byte.
func TestResponseBytes(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("CET", 3600))
	completed := &pb.DeliberationResult{AgentId: "a", Proposal: "Use <b> & \"ü\"\n", Metadata: map[string]string{
		"status": "completed", "model": "m", "role": "ARCHITECT", "duration_ms": "1234", "total_tokens": "99", "temperature": "0.7",
	}}
	failed := &pb.DeliberationResult{AgentId: "b", Metadata: map[string]string{
		"status": "failed", "duration_ms": "5", "error": "the model answered 404", "error_type": "status",
	}}
	renamed := asked()
	renamed.Request.Constraints.Metadata["task_id"] = "ceremony-1:story-1"
	for name, told := range map[string]response{
		"completed.json": responseTo("d-1", at, asked(), 2, completed),
		"failed.json":    responseTo("d-1", at, renamed, 2, failed),
		// The journal no longer has the request, the result says little.
		"bare.json": responseTo("d-1", at, &pb.DeliberationRequested{TaskId: "t-1"}, 1, &pb.DeliberationResult{AgentId: "a", Proposal: "yes"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := marshalResponse(told)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, got)
		})
	}
}

func TestTemperatureIsANumber(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "1.0", "0.7": "0.7", "0": "0", "NaN": "1.0", "hot": "1.0", "null": "1.0", `"1"`: "1.0", "0x1": "1.0"} {
		if got := temperature(text); string(got) != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

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

func TestRetryPause(t *testing.T) {
	t.Parallel()
	for attempt, full := range map[uint64]time.Duration{
		0: firstRetry, 1: firstRetry, 2: 2 * firstRetry, 5: 16 * firstRetry, 9: 51200 * time.Millisecond, 10: slowestRetry, 1 << 40: slowestRetry,
	} {
		for range 100 {
			if got := retryPause(attempt, 0); got < full/2 || got >= full {
				t.Fatalf("after attempt %d: %s, want %s to %s", attempt, got, full/2, full)
			}
		}
	}
	if got := retryPause(1, time.Hour); got != time.Hour {
		t.Errorf("the sink asked for an hour: %s", got)
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

// keepJournal is a journal that only keeps.
type keepJournal struct {
	RelayJournal

	err  error
	kept []string
}

func (j *keepJournal) StoreUndelivered(_ context.Context, _ journal.Delivery, reason string) error {
	j.kept = append(j.kept, reason)
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

// TestGivingUp sees when an end is kept, without waiting for it.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	old, young := journalTime.Add(-2*time.Hour), journalTime
	for name, test := range map[string]struct {
		status  int
		attempt uint64
		ended   time.Time
		keep    error
		kept    bool
		again   bool
	}{
		"refused for good":            {status: 400, attempt: 1, ended: young, kept: true},
		"first time":                  {status: 500, attempt: 1, ended: young, again: true},
		"old, but hardly tried":       {status: 500, attempt: leastAttempts - 1, ended: old, again: true},
		"tried a lot, but young":      {status: 500, attempt: 100, ended: young, again: true},
		"old and tried":               {status: 500, attempt: leastAttempts, ended: old, kept: true},
		"nowhere to keep it":          {status: 400, attempt: 1, ended: young, keep: errors.New("full"), kept: true},
		"taken":                       {status: 202, attempt: 1, ended: young},
		"a redirect is not an answer": {status: 302, attempt: 1, ended: young, kept: true},
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
			relay := NewRelay(j, sink, RelayOptions{Patience: time.Hour}, slog.New(slog.DiscardHandler))
			err = relay.relay(t.Context(), journal.Delivery{
				Attempt: test.attempt,
				Entry:   deliberation.Entry{Time: test.ended, Event: &pb.DeliberationCompleted{DeliberationId: "d1"}},
			})
			_, again := errors.AsType[*journal.LaterError](err)
			if again != test.again || (len(j.kept) == 1) != test.kept || !again && !errors.Is(err, test.keep) {
				t.Errorf("again %v, kept %v, %v", again, j.kept, err)
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
	relay := NewRelay(&keepJournal{}, sink, RelayOptions{}, slog.New(slog.DiscardHandler))
	refused, ok := errors.AsType[*refusal](relay.post(t.Context(), journal.Delivery{
		Entry: deliberation.Entry{Event: &pb.DeliberationFailed{DeliberationId: "d1"}},
	}))
	if !ok || !refused.permanent {
		t.Errorf("a URL that is none: %v", refused)
	}
	if err := relay.Retry(t.Context(), "", nil); err == nil {
		t.Error("a list that cannot be read is passed over")
	}
}

// responsesJournal keeps what it is told on one of the two subjects; the other
// stream does not answer.
type responsesJournal struct {
	Journal

	told [][]byte
}

func (*responsesJournal) MaxAnnouncement() int { return 1 << 20 }

func (*responsesJournal) Offload(context.Context, proto.Message) (proto.Message, error) {
	return &pb.AgentCompleted{ResultRef: "sha256-1"}, nil
}

func (*responsesJournal) Read(context.Context, string) (*deliberation.History, error) {
	return &deliberation.History{}, nil
}

func (j *responsesJournal) Announce(_ context.Context, subject, _ string, _ map[string][]string, data []byte) error {
	if subject == events.ResponseCompleted {
		return &deliberation.Error{Code: deliberation.Unavailable}
	}
	j.told = append(j.told, data)
	return nil
}

// TestOneDestinationAway: the other agents are told, and the end comes again by
// itself. What they say is too large in JSON.
func TestOneDestinationAway(t *testing.T) {
	t.Parallel()
	j := &responsesJournal{}
	bulk := strings.Repeat("\x01", 300<<10)
	end := &pb.DeliberationCompleted{DeliberationId: "d1", TaskId: bulk, Results: []*pb.DeliberationResult{
		{AgentId: "a", Proposal: "yes"}, {AgentId: "b", Metadata: map[string]string{"error": bulk, "role": bulk}},
	}}
	err := New(j, slog.New(slog.DiscardHandler)).respond(t.Context(), journal.Delivery{Attempt: 1, Entry: deliberation.Entry{Event: end}})
	if _, later := errors.AsType[*journal.LaterError](err); !later {
		t.Errorf("told with %v", err)
	}
	if len(j.told) != 1 || len(j.told[0]) > 1<<20 || !bytes.Contains(j.told[0], []byte(`"agent_id":"b"`)) {
		t.Errorf("%d are told", len(j.told))
	}
}

func TestLargeSnapshotsAreSeldom(t *testing.T) {
	t.Parallel()
	for open, want := range map[int64]time.Duration{
		0: 0, 19_999: 0, 100_000: 25 * time.Second, 1_000_000: 250 * time.Second, 1 << 40: snapshotSlowest,
	} {
		if got := snapshotPause(open); got != want {
			t.Errorf("with %d open: %s, want %s", open, got, want)
		}
	}
}
