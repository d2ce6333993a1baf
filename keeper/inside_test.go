package keeper

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/golden"
)

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
			golden.Check(t, filepath.Join("testdata", name), append(got, '\n'))
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

// responsesJournal records what is published on one of the two subjects; the other
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

// TestOneDestinationAway: the other agents' responses are published, and the end comes again by
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
		t.Errorf("published with %v", err)
	}
	if len(j.told) != 1 || len(j.told[0]) > 1<<20 || !bytes.Contains(j.told[0], []byte(`"agent_id":"b"`)) {
		t.Errorf("%d are published", len(j.told))
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

// publications records the numbers of open deliberations that a keeper publishes.
type publications struct {
	Journal

	open []int64
}

func (p *publications) PublishOpen(_ context.Context, open int64) error {
	p.open = append(p.open, open)
	return nil
}

// TestPublishOpen: the number is published near the limit, and once below it.
func TestPublishOpen(t *testing.T) {
	t.Parallel()
	published := &publications{}
	k := New(published, slog.New(slog.DiscardHandler))
	current := &openLedger{ledger: deliberation.NewLedger(nil)}
	sequence := uint64(0)
	apply := func(kind deliberation.Kind, qualifier, id string) {
		sequence++
		current.ledger.Apply(deliberation.Mark{Sequence: sequence, Kind: kind, Qualifier: qualifier, DeliberationID: id})
	}
	tell := func() {
		t.Helper()
		if err := k.publishOpen(t.Context(), current); err != nil {
			t.Fatal(err)
		}
	}
	const half = journal.MaxOpen / 2
	for i := range half {
		apply(deliberation.KindRequested, "default", strconv.Itoa(i))
	}
	tell()
	apply(deliberation.KindRequested, "default", "last")
	tell()
	apply(deliberation.KindDone, "completed", "last")
	tell()
	tell()
	if want := []int64{half + 1, half}; !slices.Equal(published.open, want) {
		t.Errorf("published %v, want %v", published.open, want)
	}
}
