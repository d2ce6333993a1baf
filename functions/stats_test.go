package functions_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestStats(t *testing.T) {
	t.Parallel()
	fine := &pb.Cluster{Name: "east", Reachable: true, WorkerReplicas: 1, WorkerReplicasTarget: 1}
	for name, test := range map[string]struct {
		clusters []*pb.Cluster
		status   string
		reasons  []string
	}{
		"healthy":     {[]*pb.Cluster{fine}, "healthy", nil},
		"no clusters": {nil, "healthy", nil},
		"unreachable": {[]*pb.Cluster{fine, {Name: "west", Error: "refused"}}, "degraded", []string{"cluster west cannot be reached: refused"}},
		"no worker":   {[]*pb.Cluster{{Name: "west", Reachable: true, Error: "not deployed"}}, "degraded", []string{"cluster west runs 0 of 0 worker replicas: not deployed"}},
		"cut off": {
			[]*pb.Cluster{{Name: "west", Reachable: true, WorkerReplicas: 1, WorkerReplicasTarget: 1, Problems: []string{"no heartbeat", "model host a:1: refused"}}},
			"degraded",
			[]string{"cluster west: no heartbeat", "cluster west: model host a:1: refused"},
		},
		"too few": {[]*pb.Cluster{{Name: "west", Reachable: true, WorkerReplicas: 1, WorkerReplicasTarget: 2}}, "degraded", []string{"cluster west runs 1 of 2 worker replicas: has it been deployed, and is there room?"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, func(o *functions.Options) {
				o.Clusters = fleet(func(context.Context) []*pb.Cluster { return test.clusters })
			})
			f.submit(t, "d")
			f.submit(t, "e")
			f.journal.start("e")
			got, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{})
			if err != nil {
				t.Fatal(err)
			}
			want := &pb.RayExecutorStats{TotalDeliberations: 2, ActiveDeliberations: 2, QueuedDeliberations: 1}
			if got.GetStatus() != test.status || !proto.Equal(got.GetStats(), want) || len(got.GetClusters()) != len(test.clusters) ||
				strings.Join(got.GetReasons(), "|") != strings.Join(test.reasons, "|") {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestStatsDoNotWaitForClustersInVain: while the journal is away there is
// nothing to tell, and a cluster that hangs or panics takes nobody with it.
func TestStatsDoNotWaitForClustersInVain(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	f := setup(t, func(o *functions.Options) {
		o.Clusters = fleet(func(ctx context.Context) []*pb.Cluster { <-ctx.Done(); close(left); return nil })
	})
	f.journal.set(away)
	_, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
	<-left
	f = setup(t, func(o *functions.Options) {
		o.Clusters = fleet(func(context.Context) []*pb.Cluster { panic("a cluster") })
	})
	if got, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{}); err != nil || got.GetStats() == nil {
		t.Errorf("got %v, %v", got, err)
	}
	if !strings.Contains(f.logs.String(), "panic: a cluster") {
		t.Errorf("the log does not tell: %s", f.logs)
	}
}

func TestStatsKeepTheirTurn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	given, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 { // a failure leaves the ledger where it was
		f.journal.set(away)
		if _, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{}); err == nil {
			t.Fatal("no error")
		}
		f.journal.set(nil)
		if _, err := f.Stats(t.Context(), &pb.GetStatusRequest{}, functions.Origin{}); err != nil {
			t.Fatal(err)
		}
		_, _ = f.Stats(given, &pb.GetStatusRequest{}, functions.Origin{}) // whoever gave up holds up nobody
	}
}

func TestJobs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, id := range []string{"a", "b", "c"} {
		f.submit(t, id)
	}
	f.journal.start("b")
	if _, err := f.Cancel(t.Context(), &pb.CancelDeliberationRequest{DeliberationId: "a"}, functions.Origin{}); err != nil {
		t.Fatal(err)
	}
	got, err := f.Jobs(t.Context(), &pb.GetActiveJobsRequest{}, functions.Origin{})
	if err != nil || len(got.GetJobs()) != 2 || got.GetJobs()[0].GetJobId() != "b" || got.GetJobs()[0].GetStatus() != "running" || got.GetJobs()[1].GetStatus() != "queued" {
		t.Errorf("got %v, %v", got, err)
	}
	f.journal.set(away)
	_, err = f.Jobs(t.Context(), &pb.GetActiveJobsRequest{}, functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
}
