package functions_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestCancel(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cancel := func(id, reason string) string {
		got, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: id, Reason: reason}, functions.Origin{TraceParent: trace})
		if err != nil || got.GetDeliberationId() != id || got.GetMessage() == "" {
			t.Fatalf("got %v, %v", got, err)
		}
		return got.GetStatus()
	}
	f.submit(t, "d")
	f.submit(t, "e")
	f.submit(t, "g")
	f.journal.start("e")
	f.journal.start("old") // whose beginning the journal no longer has
	if _, err := f.journal.End(t.Context(), "g", &pb.DeliberationCompleted{}, ""); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ id, reason, want string }{
		{"d", "changed my mind", "cancelled"},
		{"d", "again", "cancelled"},
		{"e", "", "cancelled"},
		{"old", "", "cancelled"},
		{"g", "", "completed"},
		{"x", "", "not_found"},
	} {
		if got := cancel(step.id, step.reason); got != step.want {
			t.Errorf("%s is %s, want %s", step.id, got, step.want)
		}
	}
	for id, reason := range map[string]string{"d": "changed my mind", "e": "cancelled by the caller"} {
		status, err := f.Status(t.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: id}, functions.Origin{})
		if err != nil || status.GetStatus() != "cancelled" || status.GetErrorMessage() != reason {
			t.Errorf("%s: %v, %v", id, status, err)
		}
	}
	for _, e := range f.journal.entries {
		if e.Kind == deliberation.KindDone && e.event.(interface{ GetDeliberationId() string }).GetDeliberationId() == "" && e.DeliberationID != "g" {
			t.Errorf("the end of %s does not name it", e.DeliberationID)
		}
	}
	f.journal.set(away)
	_, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}

// race is a journal on which somebody else ends a deliberation first.
type race struct{ *memory }

func (r race) End(ctx context.Context, id string, _ proto.Message, _ string) (bool, error) {
	_, err := r.memory.End(ctx, id, &pb.DeliberationCompleted{DeliberationId: id}, "")
	return false, err
}

func TestCancelTellsTheEndThatStands(t *testing.T) {
	t.Parallel()
	m := &memory{}
	f := setup(t, func(o *functions.Options) { o.Journal = race{m} })
	f.submit(t, "d")
	got, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"}, functions.Origin{})
	if err != nil || got.GetStatus() != "completed" {
		t.Errorf("got %v, %v", got, err)
	}
}

// stale is a journal whose end is stored, and not returned yet.
type stale struct{ *memory }

func (stale) End(context.Context, string, proto.Message, string) (bool, error) { return false, nil }

func TestCancelTellsNoStateThatIsPast(t *testing.T) {
	t.Parallel()
	m := &memory{}
	f := setup(t, func(o *functions.Options) { o.Journal = stale{m} })
	f.submit(t, "d")
	_, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "d"}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}
