package functions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// clusterWait bounds the question to the Ray clusters.
	clusterWait = 3 * time.Second
	// maxJobs is the most that GetActiveJobs lists.
	maxJobs = 1000
)

// Stats tells the health, the statistics and the clusters. Reading changes
// nothing. Health is degraded, with the reasons, while a Ray cluster or its
// worker is not as it should be: deliberations are accepted all the same.
func (f *Functions) Stats(ctx context.Context, _ *pb.GetStatusRequest, _ Origin) (*pb.GetStatusResponse, error) {
	asking, cancel := context.WithTimeout(ctx, clusterWait)
	defer cancel()
	asked := f.askClusters(asking)
	var stats *pb.RayExecutorStats
	err := f.withLedger(ctx, func(ledger *deliberation.Ledger) { stats = ledger.Stats() })
	if err != nil {
		return nil, err
	}
	clusters := <-asked
	response := &pb.GetStatusResponse{
		Status: "healthy", UptimeSeconds: int64(time.Since(f.started).Seconds()),
		Stats: stats, Clusters: clusters, Reasons: reasons(clusters),
	}
	if len(response.GetReasons()) > 0 {
		response.Status = "degraded"
	}
	return response, nil
}

// askClusters asks while the journal is read.
func (f *Functions) askClusters(ctx context.Context) <-chan []*pb.Cluster {
	asked := make(chan []*pb.Cluster, 1)
	go func() {
		var clusters []*pb.Cluster
		var err error
		defer func() {
			f.logFailure(ctx, "stats", err)
			asked <- clusters
		}()
		defer rescue(&err)
		clusters = f.clusters.Clusters(ctx)
	}()
	return asked
}

// reasons says what is amiss with the clusters.
func reasons(clusters []*pb.Cluster) []string {
	var reasons []string
	for _, cluster := range clusters {
		switch {
		case !cluster.GetReachable():
			reasons = append(reasons, fmt.Sprintf("cluster %s cannot be reached: %s", cluster.GetName(), cluster.GetError()))
		case cluster.GetWorkerReplicas() < cluster.GetWorkerReplicasTarget() || cluster.GetWorkerReplicas() == 0:
			reasons = append(reasons, fmt.Sprintf("cluster %s runs %d of %d worker replicas: %s", cluster.GetName(),
				cluster.GetWorkerReplicas(), cluster.GetWorkerReplicasTarget(), cmp.Or(cluster.GetError(), "has it been deployed, and is there room?")))
		case cluster.GetError() != "":
			reasons = append(reasons, fmt.Sprintf("cluster %s: %s", cluster.GetName(), cluster.GetError()))
		}
		for _, problem := range cluster.GetProblems() {
			reasons = append(reasons, fmt.Sprintf("cluster %s: %s", cluster.GetName(), problem))
		}
	}
	return reasons
}

// Jobs lists what is queued or running, the oldest first, at most 1,000 and a
// megabyte of them.
func (f *Functions) Jobs(ctx context.Context, _ *pb.GetActiveJobsRequest, _ Origin) (*pb.GetActiveJobsResponse, error) {
	var open []deliberation.Open
	err := f.withLedger(ctx, func(ledger *deliberation.Ledger) {
		open = ledger.Oldest(maxJobs, func(deliberation.Open) bool { return true })
	})
	if err != nil {
		return nil, err
	}
	response := &pb.GetActiveJobsResponse{}
	for told, place := 0, 0; place < len(open) && told < deliberation.MaxPageBytes; place++ {
		err := f.look(ctx, open[place].ID, func(story *deliberation.History) {
			if !story.Unreadable && (story.State == deliberation.Queued || story.State == deliberation.Running) {
				job := story.Job(time.Now())
				response.Jobs = append(response.Jobs, job)
				told += proto.Size(job)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return response, gate.Take(ctx, proto.Size(response))
}

// withLedger reads the ledger as of now. It is kept between calls and caught
// up, so that a call costs what happened since the last one. Calls take turns.
func (f *Functions) withLedger(ctx context.Context, read func(*deliberation.Ledger)) error {
	var ledger *deliberation.Ledger
	select {
	case ledger = <-f.ledger:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { f.ledger <- ledger }()
	var err error
	for range 2 {
		if ledger == nil {
			if ledger, _, err = f.journal.Ledger(ctx); err != nil {
				return err
			}
		}
		// What a call has no time for, the next one need not count again.
		if err = f.journal.CatchUp(ctx, ledger); !errors.Is(err, deliberation.ErrOtherLedger) {
			break
		}
		ledger = nil // the journal is another one now, or has lost what was not counted here
	}
	if err == nil {
		read(ledger)
	}
	return err
}
