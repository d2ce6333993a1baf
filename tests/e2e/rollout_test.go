package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
)

// TestARolloutLosesAndRepeatsNoAgent scales the worker down, and up again,
// while agents are being asked: Serve replaces every replica, since each is told
// how many there are. Those that leave end what they hold.
func TestARolloutLosesAndRepeatsNoAgent(t *testing.T) {
	asked := behave(t, "rollout", standin.Behaviour{Delay: 3 * time.Second})
	t.Cleanup(func() { deployWorker(t, 2) })
	for _, replicas := range []int{1, 2} {
		var ids []string
		for i := range 20 {
			submitted := request(fmt.Sprintf("rollout-%d-%d", replicas, i), agents(2)...)
			for _, agent := range submitted.GetAgents() {
				agent.Model = asked
			}
			ids = append(ids, sys.Submit(t, submitted))
		}
		sys.Await(t, ids[0], func(status *pb.GetDeliberationStatusResponse) bool { return status.GetStartedAt() != nil })
		deployWorker(t, replicas)
		for _, id := range ids {
			status := sys.AwaitEnd(t, id)
			expectState(t, status, deliberation.Completed)
			if status.GetAttempts() != 1 {
				t.Errorf("%s took %d attempts: it was not ended by who held it", id, status.GetAttempts())
			}
		}
	}
	calls := 0
	for _, seen := range model.Requests() {
		if seen.Model == asked {
			calls++
		}
	}
	if calls != 80 {
		t.Errorf("80 agents were asked %d times", calls)
	}
}

func deployWorker(t *testing.T, replicas int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	setting := fmt.Sprintf("WORKER_REPLICAS=%d", replicas)
	if printed, err := sys.RunWith(ctx, []string{setting}, "deploy", "--only", "worker"); err != nil {
		t.Fatalf("deploy %d worker replicas: %v\n%s", replicas, err, printed)
	}
}
