package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
	"rayexecutor/tests/await"
)

// TestWhatIsGivenUpIsKeptUntilItIsRetried has five workers lost with a
// deliberation, as far as the journal tells, while it waits in a pool that is
// held up: the real worker that comes next gives it up.
func TestWhatIsGivenUpIsKeptUntilItIsRetried(t *testing.T) {
	holder := request("holder", agents(1)...)
	holder.Pool, holder.Agents[0].Model = "narrow", behave(t, "holder", standin.Behaviour{Hang: true})
	held := sys.Submit(t, holder)
	awaitModel(t, "holder", func(standin.Request) bool { return true })
	deadly := request("deadly", agents(2)...)
	deadly.Pool, deadly.DeliberationId = "narrow", "deadly"
	sys.Submit(t, deadly)
	loseWorkers(t, "deadly", 5)
	sys.Cancel(t, held, "enough")

	status := sys.AwaitEnd(t, "deadly")
	expectState(t, status, deliberation.Failed)
	if !strings.Contains(status.GetErrorMessage(), "given up after 5 attempts") {
		t.Errorf("it failed because %q", status.GetErrorMessage())
	}
	await.NoError(t, "the dead letter", func() error {
		listed, err := sys.Run(t.Context(), "dead", "list")
		if err != nil || !strings.Contains(listed, "deadly") {
			return fmt.Errorf("the list is %q: %w", listed, err)
		}
		return nil
	})
	if printed, err := sys.Run(t.Context(), "dead", "retry", "deadly", "--server", sys.URL()); err != nil {
		t.Fatalf("retry: %v\n%s", err, printed)
	}
	sys.Note("deadly-retry")
	expectState(t, sys.AwaitEnd(t, "deadly-retry"), deliberation.Completed)
	if listed, err := sys.Run(t.Context(), "dead", "list"); err != nil || strings.Contains(listed, "deadly") {
		t.Errorf("the list is still %s, %v", listed, err)
	}
}

// loseWorkers writes the starts of workers that were never heard of again.
func loseWorkers(t *testing.T, id string, n int32) {
	t.Helper()
	conn, err := sys.NATS()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for attempt := int32(1); attempt <= n; attempt++ {
		started := &pb.DeliberationStarted{DeliberationId: id, TaskId: "deadly", Attempt: attempt, Replica: fmt.Sprint("lost-", attempt)}
		data, err := proto.Marshal(started)
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.RequestMsg(&nats.Msg{
			Subject: events.Subject(deliberation.KindStarted, "narrow", id), Data: data,
			Header: nats.Header{
				"ce-specversion": {"1.0"}, "ce-id": {fmt.Sprintf("%s.started.%d", id, attempt)}, "ce-type": {events.Type(started)},
				"ce-source": {events.Source}, "ce-subject": {id}, "content-type": {events.Protobuf},
			},
		}, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
	}
}
