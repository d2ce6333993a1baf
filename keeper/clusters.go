package keeper

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "rayexecutor/proto/ray_executor/v1"
)

// lookEvery is how often the Ray clusters are asked how they are.
const lookEvery = 15 * time.Second

// Clusters tells how the Ray clusters are.
type Clusters interface {
	// Clusters asks every cluster, for a few seconds at most; one that cannot be
	// reached says so itself.
	Clusters(ctx context.Context) []*pb.Cluster
}

// WatchClusters also says when a Ray cluster is lost and when it is back, and
// shows it in metrics. It mends nothing: `deploy` or a RayService does.
func WatchClusters(clusters Clusters, metrics prometheus.Registerer) Option {
	return func(k *Keeper) { k.clusters = newWatch(clusters, metrics, k.log) }
}

// watch remembers which clusters are lost.
type watch struct {
	clusters Clusters
	log      *slog.Logger
	lost     map[string]time.Time // since when, by name

	up       *prometheus.GaugeVec
	replicas *prometheus.GaugeVec
}

func newWatch(clusters Clusters, metrics prometheus.Registerer, log *slog.Logger) *watch {
	w := &watch{
		clusters: clusters, log: log, lost: make(map[string]time.Time),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ray_executor_cluster_up", Help: "1 while the Ray cluster can be reached and runs the worker, else 0.",
		}, []string{"cluster"}),
		replicas: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ray_executor_cluster_worker_replicas", Help: "Worker replicas that run on the Ray cluster.",
		}, []string{"cluster"}),
	}
	metrics.MustRegister(w.up, w.replicas)
	return w
}

func (w *watch) run(ctx context.Context) error {
	w.look(ctx)
	_ = every(ctx, lookEvery, func() error { w.look(ctx); return nil }) // until ctx ends
	return nil
}

// look asks each cluster and says what has changed, once.
func (w *watch) look(ctx context.Context) {
	clusters := w.clusters.Clusters(ctx)
	if ctx.Err() != nil {
		return // no answer says nothing of a cluster now
	}
	for _, cluster := range clusters {
		name, replicas := cluster.GetName(), cluster.GetWorkerReplicas()
		w.replicas.WithLabelValues(name).Set(float64(replicas))
		since, lost := w.lost[name]
		works, up := cluster.GetReachable() && replicas > 0, 0.0
		if works {
			up = 1
		}
		w.up.WithLabelValues(name).Set(up)
		switch {
		case works && lost:
			delete(w.lost, name)
			w.log.Info("a Ray cluster is back", "cluster", name, "lost_since", since.UTC().Format(time.RFC3339), "replicas", replicas)
		case !works && !lost:
			w.lost[name] = time.Now()
			w.log.Error("a Ray cluster is lost: what it would run waits for it or for another, until its deadline",
				"cluster", name, "address", cluster.GetAddress(),
				"reason", cmp.Or(cluster.GetError(), "no worker replica runs"), "do", remedy)
		}
	}
}

const remedy = "where its head has come back without the worker, run `ray-executor deploy`; a RayService does that by itself"
