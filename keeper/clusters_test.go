package keeper

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/ray"
	"rayexecutor/tests/await"
)

// watched is a watch over one cluster, with all that it says.
type watched struct {
	*watch
	log     bytes.Buffer
	metrics *prometheus.Registry
}

func watchOne(t *testing.T, address string) *watched {
	t.Helper()
	fleet, err := ray.NewFleet(ray.Cluster{Name: "east", Address: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fleet.Close)
	w := &watched{metrics: prometheus.NewRegistry()}
	w.watch = newWatch(fleet, w.metrics, slog.New(slog.NewTextHandler(&w.log, nil)))
	return w
}

// await looks until something new is said, and returns it.
func (w *watched) await(t *testing.T, words ...string) {
	t.Helper()
	w.log.Reset()
	await.True(t, fmt.Sprintf("a log line with %q", words), func() bool {
		w.check(t.Context())
		return w.log.Len() > 0
	})
	for _, word := range words {
		if !strings.Contains(w.log.String(), word) {
			t.Errorf("it does not say %q: %s", word, &w.log)
		}
	}
	w.log.Reset()
	w.check(t.Context())
	if w.log.Len() > 0 {
		t.Errorf("it is said again: %s", &w.log)
	}
}

func (w *watched) wantGauges(t *testing.T, up, replicas float64) {
	t.Helper()
	got := w.gauges(t)
	if got["ray_executor_cluster_up{east}"] != up || got["ray_executor_cluster_worker_replicas{east}"] != replicas {
		t.Errorf("the gauges are %v, want %v up and %v replicas", got, up, replicas)
	}
}

// gauges are the metrics by name and cluster.
func (w *watched) gauges(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			got[fmt.Sprintf("%s{%s}", family.GetName(), metric.GetLabel()[0].GetValue())] = metric.GetGauge().GetValue()
		}
	}
	return got
}

// fixedFleet is a fleet that reports what a test sets.
type fixedFleet struct{ cluster *pb.Cluster }

func (f *fixedFleet) Clusters(context.Context) []*pb.Cluster { return []*pb.Cluster{f.cluster} }

// A worker that runs and sends no heartbeat over NATS does nothing for anybody.
func TestAWorkerThatIsCutOffIsALostCluster(t *testing.T) {
	t.Parallel()
	heard := &pb.Cluster{
		Name: "east", Reachable: true, WorkerReplicas: 2, WorkerHeartbeats: proto.Int32(2), HeartbeatAgeSeconds: proto.Float64(3),
	}
	fleet := &fixedFleet{heard}
	w := &watched{metrics: prometheus.NewRegistry()}
	w.watch = newWatch(fleet, w.metrics, slog.New(slog.NewTextHandler(&w.log, nil)))
	w.check(t.Context())
	w.wantGauges(t, 1, 2)
	const count, age, problems = "ray_executor_cluster_worker_heartbeats{east}", "ray_executor_worker_heartbeat_age_seconds{east}", "ray_executor_cluster_worker_problems{east}"
	if got := w.gauges(t); got[count] != 2 || got[age] < 3 || got[age] > 60 || got[problems] != 0 {
		t.Errorf("the gauges are %v", got)
	}

	fleet.cluster = &pb.Cluster{
		Name: "east", Reachable: true, WorkerReplicas: 2, WorkerHeartbeats: proto.Int32(0), Problems: []string{"no heartbeat has come"},
	}
	w.await(t, "a Ray cluster is lost", "no heartbeat has come", "WORKER_NATS_URL")
	w.wantGauges(t, 0, 2)
	fleet.cluster = &pb.Cluster{Name: "east", Error: "connection refused"}
	w.await(t, "a Ray cluster is still lost, for another reason", "lost_since=", "connection refused", "ray-executor deploy")
	fleet.cluster = &pb.Cluster{
		Name: "east", Reachable: true, WorkerReplicas: 2, WorkerHeartbeats: proto.Int32(0), Problems: []string{"no heartbeat has come"},
	}
	w.await(t, "a Ray cluster is still lost, for another reason", "no heartbeat has come")
	if got := w.gauges(t); got[count] != 0 || got[age] < 3 || math.IsInf(got[age], 0) || got[problems] != 1 {
		t.Errorf("the gauges are %v", got)
	}
	fleet.cluster = heard
	w.await(t, "a Ray cluster is back")

	// An older worker says nothing: it is not known, and no alarm.
	fleet.cluster = &pb.Cluster{Name: "east", Reachable: true, WorkerReplicas: 2}
	w.check(t.Context())
	w.wantGauges(t, 1, 2)
	if _, there := w.gauges(t)[count]; there || w.log.Len() > 0 {
		t.Errorf("the gauges are %v; the log is %s", w.gauges(t), &w.log)
	}
}

// dashboard is a Ray head's, as far as the watch reads it; apps are its Serve
// applications.
func dashboard(apps *atomic.Value, down *atomic.Bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case down.Load():
			http.Error(w, "no head", http.StatusBadGateway)
		case r.URL.Path == "/api/version":
			fmt.Fprint(w, `{"ray_version": "2.60.0"}`)
		case r.URL.Path == "/nodes":
			fmt.Fprint(w, `{"result": true, "data": {"summary": []}}`)
		default:
			fmt.Fprintf(w, `{"applications": %s}`, apps.Load())
		}
	}
}

const deployed = `{"ray-executor": {"status": "RUNNING", "deployments": {"Worker": {"target_num_replicas": 2,
	"replicas": [{"state": "RUNNING"}, {"state": "RUNNING"}]}}}}`

// A head that goes, comes back without the worker, and has it deployed again.
func TestALostClusterIsSaid(t *testing.T) {
	t.Parallel()
	var apps atomic.Value
	var down atomic.Bool
	apps.Store(deployed)
	server := httptest.NewServer(dashboard(&apps, &down))
	t.Cleanup(server.Close)
	w := watchOne(t, server.URL)
	w.check(t.Context())
	w.wantGauges(t, 1, 2)
	if w.log.Len() > 0 {
		t.Errorf("a cluster that works is talked of: %s", &w.log)
	}

	down.Store(true)
	w.await(t, "a Ray cluster is lost", "cluster=east", "address="+server.URL, "502", "ray-executor deploy")
	w.wantGauges(t, 0, 0)
	apps.Store(`{}`)
	down.Store(false)
	w.await(t, "a Ray cluster is still lost, for another reason", "the worker is not deployed")
	w.wantGauges(t, 0, 0)
	apps.Store(deployed)
	w.await(t, "a Ray cluster is back", "lost_since=", "replicas=2")
	w.wantGauges(t, 1, 2)

	apps.Store(`{}`)
	w.await(t, "a Ray cluster is lost", "the worker is not deployed")
	server.Close()
	w.check(t.Context())

	// A keeper that stops loses no cluster.
	apps.Store(deployed)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	fresh := watchOne(t, server.URL)
	fresh.check(stopped)
	if fresh.log.Len() > 0 {
		t.Errorf("a keeper that stops says %s", &fresh.log)
	}
}
