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
	// clusterWait bounds the wait for the Ray clusters: one that does not answer must
	// not hold back the statistics.
	clusterWait = 3 * time.Second
	// maxJobs bounds the jobs of GetActiveJobs, whose message has no pages.
	maxJobs = 1000
)

// Stats returns the health, the statistics and the clusters. The statistics count
// from the first deliberation of the journal, at every instance alike, and include
// every entry that was stored before the call.
//
// Health is degraded, with reasons, while a Ray cluster or its worker fails. That
// is no error of the call: deliberations are accepted, and wait for a worker.
func (f *Functions) Stats(ctx context.Context, _ *pb.GetStatusRequest, _ Origin) (*pb.GetStatusResponse, error) {
	tenant, err := f.tenantOf(ctx)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, clusterWait)
	defer cancel()
	asked := f.askClusters(asking)
	var stats *pb.RayExecutorStats
	err = f.withLedger(ctx, func(ledger *deliberation.Ledger) { stats = ledger.Stats() })
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
	// Addresses and errors of the clusters are the operator's.
	if tenant != "" {
		response.Clusters = nil
		if len(response.GetReasons()) > 0 {
			response.Reasons = []string{"a Ray cluster or its worker fails; an operator sees which"}
		}
	}
	return response, nil
}

// askClusters asks the clusters in a goroutine while the caller reads the journal.
// The channel has room for the answer, so the goroutine ends although nobody
// receives it, after an error of the journal. A panic costs the clusters' part of
// the answer: counted does not cover this goroutine.
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

// reasons lists the problems of the clusters, for an operator. One of each cluster,
// the most severe first, and then what its worker replicas report themselves.
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

// Jobs lists what is queued or running, the oldest first: at most maxJobs, and one
// MiB of them. Above that List has pages. A deliberation that ends during the call
// may be missing or listed, but is never listed as active after its end was read.
func (f *Functions) Jobs(ctx context.Context, _ *pb.GetActiveJobsRequest, _ Origin) (*pb.GetActiveJobsResponse, error) {
	tenant, err := f.tenantOf(ctx)
	if err != nil {
		return nil, err
	}
	var open []deliberation.Open
	err = f.withLedger(ctx, func(ledger *deliberation.Ledger) {
		open = ledger.Oldest(maxJobs, func(one deliberation.Open) bool { return tenant == "" || one.Tenant == tenant })
	})
	if err != nil {
		return nil, err
	}
	response := &pb.GetActiveJobsResponse{}
	for bytes, place := 0, 0; place < len(open) && bytes < deliberation.MaxPageBytes; place++ {
		err := f.visit(ctx, open[place].ID, func(history *deliberation.History) {
			if !history.Unreadable && (history.State == deliberation.Queued || history.State == deliberation.Running) {
				job := history.Job(time.Now())
				response.Jobs = append(response.Jobs, job)
				bytes += proto.Size(job)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return response, gate.Take(ctx, proto.Size(response))
}

// withLedger calls read with the ledger as of now; read must not retain it.
//
// The ledger stays in memory between calls, and each call folds what the journal
// has stored since: the cost follows what happened, not the journal's size. Calls
// take turns. So a hundred calls at once fold each entry once, and the last of
// them waits for the others, until its own ctx ends.
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
		// An error in between loses nothing: the ledger holds what was folded, and the
		// next call continues there.
		if err = f.journal.CatchUp(ctx, ledger); !errors.Is(err, deliberation.ErrOtherLedger) {
			break
		}
		// The journal was replaced, or entries that were not folded here have expired.
		// The snapshot has them: the keeper folded them in time.
		ledger = nil
	}
	if err == nil {
		read(ledger)
	}
	return err
}
