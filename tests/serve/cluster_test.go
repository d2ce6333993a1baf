package serve_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

// TestALostHead kills a Ray's head that has no GCS fault tolerance. The next head
// has no worker until deploy.
func TestALostHead(t *testing.T) {
	sys := system.Make(t, system.Options{RayCPUs: 4})
	do(t, sys.StartJournal, sys.LaunchRay, sys.StartServer)
	awaitCluster(t, sys, 0, "the worker is not deployed")
	do(t, sys.Deploy)
	awaitCluster(t, sys, 1, "")

	if err := sys.Ray().Kill(); err != nil {
		t.Fatal(err)
	}
	awaitCluster(t, sys, 0, "is the cluster up")
	do(t, sys.LaunchRay, sys.Deploy)
	awaitCluster(t, sys, 1, "")
	if logs := sys.Logs(); !strings.Contains(logs, "a Ray cluster is lost") || !strings.Contains(logs, "a Ray cluster is back") {
		t.Error("the keeper did not log it")
	}
}

func do(t *testing.T, steps ...func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, step := range steps {
		if err := step(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitCluster waits until the keeper's metric has the cluster's state, and the
// statistics have the reason. The keeper asks the dashboard every 15 s. What it
// logs is the first reason alone, which on a loaded machine is a timeout.
func awaitCluster(t *testing.T, sys *system.System, up int, reason string) {
	t.Helper()
	shown := regexp.MustCompile(fmt.Sprintf(`(?m)^ray_executor_cluster_up{[^}]*} %d$`, up))
	await.NoError(t, fmt.Sprintf("ray_executor_cluster_up to become %d", up), func() error {
		_, metrics, err := get(sys.URL() + "/metrics")
		if err != nil {
			return err
		}
		if !shown.MatchString(metrics) {
			return errors.New("the metric has another value")
		}
		if got := sys.Health(t).GetClusters()[0].GetError(); !strings.Contains(got, reason) {
			return fmt.Errorf("the reason is %q, which lacks %q", got, reason)
		}
		return nil
	})
}
