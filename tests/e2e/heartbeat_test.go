package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// stats asks the server how it is.
func stats(t *testing.T) *pb.GetStatusResponse {
	t.Helper()
	status := &pb.GetStatusResponse{}
	if err := sys.Call(t.Context(), t.Name(), &pb.GetStatusRequest{}, status); err != nil {
		t.Fatal(err)
	}
	return status
}

// metric is what the server, and the keeper in it, tell under a name; empty where
// there is none.
func metric(t *testing.T, name string) string {
	t.Helper()
	response, err := http.Get(sys.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if match := regexp.MustCompile(`(?m)^` + name + `\{cluster="default"\} (\S+)$`).FindStringSubmatch(string(body)); match != nil {
		return match[1]
	}
	return ""
}

// awaitMetric waits for the keeper's next look, which is 15 s away at the most.
func awaitMetric(t *testing.T, name, want string) {
	t.Helper()
	await.NoError(t, name, func() error {
		if got := metric(t, name); got != want {
			return fmt.Errorf("it is %q, not %q", got, want)
		}
		return nil
	})
}

func wantHeard(t *testing.T) {
	t.Helper()
	status := stats(t)
	cluster := status.GetClusters()[0]
	if status.GetStatus() != "healthy" || cluster.GetWorkerHeartbeats() != 2 || cluster.HeartbeatAgeSeconds == nil {
		t.Errorf("the system is %s: %v; %v", status.GetStatus(), status.GetReasons(), cluster)
	}
	if printed, _ := sys.Run(t.Context(), "doctor", "--server", sys.URL()); !strings.Contains(printed, "2 with a heartbeat over NATS") {
		t.Errorf("doctor says\n%s", printed)
	}
	awaitMetric(t, "ray_executor_cluster_worker_heartbeats", "2")
	awaitMetric(t, "ray_executor_cluster_up", "1")
}

// TestAWorkerThatCannotReachNATSIsSaidEverywhere deploys the worker with an
// address at which there is no NATS: on Ray it looks healthy.
func TestAWorkerThatCannotReachNATSIsSaidEverywhere(t *testing.T) {
	wantHeard(t)
	t.Cleanup(func() { deployWorker(t, 2) })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	started := time.Now()
	printed, err := sys.RunWith(ctx, []string{"WORKER_NATS_URL=nats://127.0.0.1:9"}, "deploy", "--only", "worker")
	t.Logf("deploy took %s:\n%s", time.Since(started), printed)
	if err == nil || ctx.Err() != nil {
		t.Errorf("deploy took %s and says %v", time.Since(started), err)
	}
	for _, want := range []string{"no heartbeat of 2 of 2 replicas", "WORKER_NATS_URL=nats://127.0.0.1:9", "its log", "Connect"} {
		if !strings.Contains(printed, want) {
			t.Errorf("deploy does not say %q", want)
		}
	}
	status := stats(t)
	if status.GetStatus() != "degraded" || !strings.Contains(strings.Join(status.GetReasons(), "\n"), "no heartbeat has come over NATS") {
		t.Errorf("the system is %s: %v", status.GetStatus(), status.GetReasons())
	}
	printed, err = sys.Run(ctx, "doctor", "--server", sys.URL())
	if err == nil || !strings.Contains(printed, "worker   failed: cluster default: 2 of 2 replicas run") {
		t.Errorf("doctor says %v\n%s", err, printed)
	}
	awaitMetric(t, "ray_executor_cluster_worker_heartbeats", "0")
	awaitMetric(t, "ray_executor_cluster_up", "0")

	deployWorker(t, 2)
	wantHeard(t)
}
