package keeper

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pb "rayexecutor/proto/ray_executor/v1"
)

// checkEvery is how often the keeper checks the Ray clusters.
const checkEvery = 15 * time.Second

// Clusters reports the state of the Ray clusters.
type Clusters interface {
	// Clusters asks every cluster, for a few seconds at most. The state of one that
	// cannot be reached has the error.
	Clusters(ctx context.Context) []*pb.Cluster
}

// WatchClusters also logs when a Ray cluster is lost and when it is back, and
// exports its state as metrics. It repairs nothing: `deploy` or a RayService does.
func WatchClusters(clusters Clusters, metrics prometheus.Registerer) Option {
	return func(k *Keeper) { k.clusters = newWatch(clusters, metrics, k.log) }
}

// watch remembers which clusters are lost, so that it logs changes alone.
type watch struct {
	clusters Clusters
	log      *slog.Logger
	lost     map[string]loss // by name; a new keeper starts without any, and logs again

	// heard is the time of the latest heartbeat of a cluster's workers, by name, on
	// this machine's clock. It outlives the heartbeats themselves, which expire, so
	// that the age grows while none arrives.
	heard map[string]time.Time

	up         *prometheus.GaugeVec
	replicas   *prometheus.GaugeVec
	heartbeats *prometheus.GaugeVec
	age        *prometheus.GaugeVec
	problems   *prometheus.GaugeVec
}

// loss is since when a cluster is lost, and the reason that was logged last.
type loss struct {
	since  time.Time
	reason string
}

func newWatch(clusters Clusters, metrics prometheus.Registerer, log *slog.Logger) *watch {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"cluster"})
	}
	w := &watch{
		clusters: clusters, log: log, lost: make(map[string]loss), heard: make(map[string]time.Time),
		up: gauge("ray_executor_cluster_up",
			"1 while the Ray cluster can be reached, and runs a worker that is not known to be cut off from NATS, else 0."),
		replicas: gauge("ray_executor_cluster_worker_replicas", "Worker replicas that run on the Ray cluster."),
		heartbeats: gauge("ray_executor_cluster_worker_heartbeats",
			"Worker replicas that were heard of over NATS in the last minute; none while it is not known."),
		age: gauge("ray_executor_worker_heartbeat_age_seconds",
			"Time since the latest heartbeat of a cluster's workers came over NATS; +Inf where none did since this keeper started."),
		problems: gauge("ray_executor_cluster_worker_problems",
			"What worker replicas cannot reach, such as a model host; GET /v1/stats says what."),
	}
	metrics.MustRegister(w.up, w.replicas, w.heartbeats, w.age, w.problems)
	return w
}

// run checks until ctx ends. It never fails: a cluster that is away is a state to
// report, and no reason to restart a keeper that ends deliberations.
func (w *watch) run(ctx context.Context) error {
	w.check(ctx)
	_ = every(ctx, checkEvery, func() error { w.check(ctx); return nil }) // until ctx ends
	return nil
}

// check asks each cluster and logs what has changed: a loss, another reason of it,
// a return. Several keepers may log the same change.
func (w *watch) check(ctx context.Context) {
	clusters := w.clusters.Clusters(ctx)
	if ctx.Err() != nil {
		return // it was cut off: no answer does not mean a lost cluster
	}
	for _, cluster := range clusters {
		works := w.measure(cluster)
		known, lost := w.lost[cluster.GetName()]
		if works {
			if lost {
				delete(w.lost, cluster.GetName())
				w.log.Info("a Ray cluster is back", "cluster", cluster.GetName(), "lost_since", known.since.UTC().Format(time.RFC3339),
					"replicas", cluster.GetWorkerReplicas())
			}
			continue
		}
		reason, do := diagnosis(cluster)
		switch {
		case !lost:
			w.lost[cluster.GetName()] = loss{since: time.Now(), reason: reason}
			w.log.Error("a Ray cluster is lost; its deliberations wait for it or for another cluster until their deadlines",
				"cluster", cluster.GetName(), "address", cluster.GetAddress(), "reason", reason, "do", do)
		case reason != known.reason:
			w.lost[cluster.GetName()] = loss{since: known.since, reason: reason}
			w.log.Error("a Ray cluster is still lost, for another reason", "cluster", cluster.GetName(), "address", cluster.GetAddress(),
				"lost_since", known.since.UTC().Format(time.RFC3339), "reason", reason, "do", do)
		}
	}
}

// measure sets a cluster's gauges and reports whether it can run deliberations. An
// unknown count deletes its gauge: 0 would alert as if all workers were cut off.
func (w *watch) measure(cluster *pb.Cluster) (works bool) {
	name := cluster.GetName()
	works = cluster.GetReachable() && cluster.GetWorkerReplicas() > 0 && !cutOff(cluster)
	up := 0.0
	if works {
		up = 1
	}
	w.up.WithLabelValues(name).Set(up)
	w.replicas.WithLabelValues(name).Set(float64(cluster.GetWorkerReplicas()))
	w.problems.WithLabelValues(name).Set(float64(len(cluster.GetProblems())))
	if cluster.WorkerHeartbeats == nil {
		w.heartbeats.DeleteLabelValues(name)
		w.age.DeleteLabelValues(name)
		return works
	}
	w.heartbeats.WithLabelValues(name).Set(float64(cluster.GetWorkerHeartbeats()))
	if cluster.HeartbeatAgeSeconds != nil {
		w.heard[name] = time.Now().Add(-time.Duration(cluster.GetHeartbeatAgeSeconds() * float64(time.Second)))
	}
	age := math.Inf(1)
	if heard, ever := w.heard[name]; ever {
		age = time.Since(heard).Seconds()
	}
	w.age.WithLabelValues(name).Set(age)
	return works
}

// cutOff reports whether workers run on a cluster and none sends heartbeats: they
// cannot reach NATS. A nil count means that the worker is too old to send any.
func cutOff(cluster *pb.Cluster) bool {
	return cluster.GetWorkerReplicas() > 0 && cluster.WorkerHeartbeats != nil && cluster.GetWorkerHeartbeats() == 0
}

// diagnosis returns why a cluster is lost, and what an operator can do.
func diagnosis(cluster *pb.Cluster) (reason, do string) {
	if cluster.GetReachable() && cutOff(cluster) {
		return cmp.Or(strings.Join(cluster.GetProblems(), "; "), "its worker runs and sends no heartbeat over NATS"),
			"set WORKER_NATS_URL to NATS as the Ray nodes see it, and NATS_USER or NATS_TOKEN in their environment"
	}
	return cmp.Or(cluster.GetError(), "no worker replica runs"),
		"where its head has come back without the worker, run `ray-executor deploy`; a RayService does that by itself"
}
