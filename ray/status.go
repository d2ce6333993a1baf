package ray

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	rayexecutorv1 "rayexecutor/proto/ray_executor/v1"
)

// Application is the worker's name among a cluster's Serve applications.
const Application = "ray-executor"

// Status asks the cluster how it is, until ctx ends, and what its workers say
// where there are heartbeats (nil: none). It never fails: a cluster that cannot be
// reached, and a worker that is not as it should be, are reported in `error` and
// `problems`, beside all that could be read.
func (c *Client) Status(ctx context.Context, heartbeats Heartbeats) *rayexecutorv1.Cluster {
	var (
		asked                           sync.WaitGroup
		version                         string
		nodes                           Nodes
		serve                           instance
		heard                           heard
		versionErr, nodesErr, workerErr error
	)
	asked.Go(func() { version, versionErr = c.Version(ctx) })
	asked.Go(func() { nodes, nodesErr = c.Nodes(ctx) })
	asked.Go(func() { serve, workerErr = c.instance(ctx) })
	asked.Go(func() { heard = hear(ctx, heartbeats) })
	asked.Wait()

	status := &rayexecutorv1.Cluster{
		Name: c.name, Address: c.Address(), RayVersion: version, Reachable: versionErr == nil,
		Nodes:    int32(min(nodes.Alive, 1<<30)),
		CpusUsed: nodes.CPUsUsed, CpusTotal: nodes.CPUsTotal,
		GpusUsed: nodes.GPUsUsed, GpusTotal: nodes.GPUsTotal,
	}
	if workerErr == nil {
		workerErr = serve.describe(status, heard)
	} else {
		heard.addNamed(status)
	}
	if err := cmp.Or(versionErr, workerErr, nodesErr); err != nil {
		status.Error = err.Error()
	}
	return status
}

// describe fills in the worker's replicas and what they say, and says what is
// amiss.
func (i *instance) describe(status *rayexecutorv1.Cluster, heard heard) error {
	app, deployed := i.Applications[Application]
	if !deployed {
		return errors.New("the worker is not deployed: run `ray-executor deploy`")
	}
	running, target := app.replicas()
	status.WorkerReplicas = int32(min(running, 1<<30))
	status.WorkerReplicasTarget = int32(min(target, 1<<30))
	heard.addTo(status, &app)
	if app.Status != statusRunning {
		return fmt.Errorf("the worker is %s: %s", app.Status, app.why())
	}
	return nil
}
