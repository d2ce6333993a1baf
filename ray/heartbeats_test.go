package ray_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"rayexecutor/deliberation"
	rayexecutorv1 "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/ray"
	"rayexecutor/tests/await"
)

// heartbeats is what the workers have said, as a test sets it.
type heartbeats struct {
	mu    sync.Mutex
	each  map[string]deliberation.Heartbeat
	none  bool // an older journal
	err   error
	asked int
	// from is the look from which on they are there.
	from int
}

func (h *heartbeats) Heartbeats(context.Context) (map[string]deliberation.Heartbeat, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked++; h.asked < h.from {
		return nil, true, nil
	}
	return h.each, !h.none, h.err
}

// said are the heartbeats of replicas that have no problem, or the one given.
func said(problem string, replicas ...string) map[string]deliberation.Heartbeat {
	each := make(map[string]deliberation.Heartbeat)
	for i, replica := range replicas {
		beat := &rayexecutorv1.WorkerHeartbeat{Cluster: "test", Replica: replica}
		if what, reason, found := strings.Cut(problem, ": "); found {
			beat.Problems = []*rayexecutorv1.WorkerHeartbeat_Problem{{What: what, Reason: reason}}
		}
		each[replica] = deliberation.Heartbeat{WorkerHeartbeat: beat, Age: time.Duration(i+2) * time.Second}
	}
	return each
}

// beating is a cluster whose replicas r0 and r1 run.
func beating(config string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/serve/applications/" {
			cluster("", "")(w, r)
			return
		}
		fmt.Fprintf(w, `{"applications": {"ray-executor": {"status": "RUNNING", "deployments": {"Worker": {"status": "HEALTHY",
			"target_num_replicas": 2, "deployment_config": {"user_config": %s},
			"replicas": [{"state": "RUNNING", "replica_id": "r0"}, {"state": "RUNNING", "replica_id": "r1"}]}}},
			"theirs": {"status": "RUNNING", "deployments": {"D": {"deployment_config": {"user_config": ["x"]}}}}}}`, config)
	}
}

func TestStatusTellsWhatTheWorkersSay(t *testing.T) {
	t.Parallel()
	const sends, older = `{"heartbeat_s": 10.0}`, `null`
	for name, test := range map[string]struct {
		config     string
		heartbeats *heartbeats
		want       *rayexecutorv1.Cluster
		silence    string
	}{
		"all": {
			sends, &heartbeats{each: said("", "r0", "r1", "elsewhere")},
			&rayexecutorv1.Cluster{WorkerHeartbeats: proto.Int32(2), HeartbeatAgeSeconds: proto.Float64(2)}, "",
		},
		"none":          {sends, &heartbeats{each: said("", "elsewhere")}, &rayexecutorv1.Cluster{WorkerHeartbeats: proto.Int32(0)}, "2 of 2 replicas run"},
		"one is silent": {sends, &heartbeats{each: said("", "r1")}, &rayexecutorv1.Cluster{WorkerHeartbeats: proto.Int32(1), HeartbeatAgeSeconds: proto.Float64(2)}, "1 of 2 replicas run"},
		"older worker":  {older, &heartbeats{}, &rayexecutorv1.Cluster{}, ""},
		"older journal": {sends, &heartbeats{none: true}, &rayexecutorv1.Cluster{}, ""},
		"NATS is away":  {sends, &heartbeats{err: errors.New("away")}, &rayexecutorv1.Cluster{}, ""},
		"cannot reach a": {
			sends, &heartbeats{each: said("model host a:1: connection refused", "r0", "r1")},
			&rayexecutorv1.Cluster{
				WorkerHeartbeats: proto.Int32(2), HeartbeatAgeSeconds: proto.Float64(2),
				Problems: []string{"model host a:1: connection refused (2 of 2 replicas)"},
			}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := dashboard(t, "", beating(test.config)).Status(t.Context(), test.heartbeats)
			status := &rayexecutorv1.Cluster{
				WorkerHeartbeats: got.WorkerHeartbeats, HeartbeatAgeSeconds: got.HeartbeatAgeSeconds, Problems: got.GetProblems(),
			}
			if test.silence != "" {
				if len(status.GetProblems()) != 1 || !strings.Contains(status.GetProblems()[0], test.silence) ||
					!strings.Contains(status.GetProblems()[0], "WORKER_NATS_URL") {
					t.Errorf("problems %q", status.GetProblems())
				}
				status.Problems = nil
			}
			if diff := cmp.Diff(test.want, status, protocmp.Transform()); diff != "" || got.GetError() != "" {
				t.Error(got.GetError(), diff)
			}
		})
	}
}

// Where the dashboard is away, the workers of the cluster's name are told.
func TestWorkersAreHeardWithoutTheDashboard(t *testing.T) {
	t.Parallel()
	client := dashboard(t, "", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no head", http.StatusBadGateway) })
	status := client.Status(t.Context(), &heartbeats{each: said("", "r0", "r1")})
	if status.GetReachable() || status.GetWorkerHeartbeats() != 2 {
		t.Errorf("status: %v", status)
	}
}

// impatient waits in vain: several questions take less, on a loaded machine too.
const impatient = 4 * time.Second

// deployHearing deploys two replicas that send heartbeats, and waits for these for
// as long as patience. Deploy asks every 500 ms.
func deployHearing(t *testing.T, fake *fakeServe, client *ray.Client, beats ray.Heartbeats, patience time.Duration) ([]string, error) {
	t.Helper()
	fake.beats = true
	var progress []string
	chosen := options(packed(t, "x = 1"), 2, func(format string, args ...any) { progress = append(progress, fmt.Sprintf(format, args...)) })
	chosen.Heartbeats, chosen.Patience = beats, patience
	return progress, ray.Deploy(t.Context(), client, chosen)
}

func TestDeployWaitsForHeartbeats(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	beats := &heartbeats{each: said("", "r0", "r1"), from: 3}
	if _, err := deployHearing(t, fake, client, beats, await.Limit); err != nil || beats.asked != 3 {
		t.Errorf("asked %d times: %v", beats.asked, err)
	}
	// One that runs already is listened to as well.
	beats.each = said("", "r0")
	if _, err := deployHearing(t, fake, client, beats, impatient); err == nil || !strings.Contains(err.Error(), "no heartbeat of 1 of 2 replicas") {
		t.Error(err)
	}
}

func TestDeployDoesNotWaitForWhatCannotCome(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	if _, err := deployHearing(t, fake, client, &heartbeats{none: true}, await.Limit); err != nil {
		t.Errorf("an older journal: %v", err)
	}
	older, client := newFake(t)
	if _, err := rollOut(t, client, 1); err != nil {
		t.Error(err)
	}
	chosen := options(packed(t, "x = 1"), 1, nil)
	chosen.Heartbeats = &heartbeats{}
	if err := ray.Deploy(t.Context(), client, chosen); err != nil || older.beats {
		t.Errorf("an older worker: %v", err)
	}
}

func TestDeploySaysWhyNoHeartbeatComes(t *testing.T) {
	t.Parallel()
	const line = "WARNING 2026-11-25 02:14:07,907 ray-executor_Worker krpuj0uf -- "
	for name, test := range map[string]struct {
		log        string
		heartbeats *heartbeats
		want, not  []string
	}{
		"a log that says nothing": {
			"INFO 2026-11-25 02:14:07,907 ray-executor_Worker krpuj0uf -- %s %s\n", &heartbeats{},
			[]string{"2 of 2 replicas", "serve/replica_0.log on node 10.0.0.1", "WORKER_NATS_URL=nats://127.0.0.1:1 (", "NATS_TOKEN"},
			nil,
		},
		"no route": {
			line + "NATS: old news\n" + line + "NATS at nowhere:4222 cannot be used: gaierror: [Errno -2] %s %s\n", &heartbeats{},
			[]string{"gaierror: [Errno -2] n0 serve/replica_0.log", "WORKER_NATS_URL=nats://127.0.0.1:1:"},
			[]string{"NATS_TOKEN"},
		},
		"a refused login": {
			line + "NATS: Error: nats: 'Authorization Violation' %s %s\n", &heartbeats{},
			[]string{"Authorization Violation", "NATS_USER"},
			[]string{"WORKER_NATS_URL"},
		},
		"NATS away from here": {
			"%s %s", &heartbeats{err: errors.New("NATS cannot be reached")},
			[]string{"cannot be seen from here: NATS cannot be reached"},
			[]string{"WORKER_NATS_URL"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake, client := newFake(t)
			fake.log = test.log
			_, err := deployHearing(t, fake, client, test.heartbeats, impatient)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q", err, want)
				}
			}
			for _, not := range test.not {
				if err != nil && strings.Contains(err.Error(), not) {
					t.Errorf("%v; it must not say %q", err, not)
				}
			}
		})
	}
}
