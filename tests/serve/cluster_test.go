package serve_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"rayexecutor/tests/system"
)

// TestALostHead kills a Ray's head, without GCS fault tolerance: the one that
// comes back has no worker until it is deployed.
func TestALostHead(t *testing.T) {
	sys := system.Make(t, system.Options{RayCPUs: 4})
	do(t, sys.StartJournal, sys.LaunchRay, sys.StartServer)
	awaitCluster(t, sys, 0, "the worker is not deployed")
	do(t, sys.Deploy)
	awaitCluster(t, sys, 1, "a Ray cluster is back")

	if err := sys.Ray().Kill(); err != nil {
		t.Fatal(err)
	}
	awaitCluster(t, sys, 0, "is the cluster up")
	do(t, sys.LaunchRay, sys.Deploy)
	awaitCluster(t, sys, 1, "a Ray cluster is back")
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

// awaitCluster waits until the keeper shows whether the cluster works, and says
// so.
func awaitCluster(t *testing.T, sys *system.System, up int, said string) {
	t.Helper()
	shown := regexp.MustCompile(fmt.Sprintf(`(?m)^ray_executor_cluster_up{[^}]*} %d$`, up))
	timeout := time.After(2 * time.Minute) // it asks every 15 s
	for {
		_, metrics, err := get(sys.URL() + "/metrics")
		if err == nil && shown.MatchString(metrics) && strings.Contains(sys.Logs(), said) {
			return
		}
		select {
		case <-timeout:
			t.Fatalf("ray_executor_cluster_up does not become %d with %q: %v", up, said, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
