package ray

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"rayexecutor/deliberation"
	rayexecutorv1 "rayexecutor/proto/ray_executor/v1"
)

// maxProblems is how many problems of a cluster's workers are reported.
const maxProblems = 20

// Heartbeats returns the last heartbeats of the worker replicas, received over
// NATS: Ray knows that a replica runs, and not whether it can work.
type Heartbeats interface {
	// Heartbeats returns the last heartbeat of each replica that has sent one in the
	// last minute, by the replica's id. recorded is false if none are recorded.
	Heartbeats(ctx context.Context) (each map[string]deliberation.Heartbeat, recorded bool, err error)
}

// heard is the heartbeats as they were read.
type heard struct {
	each map[string]deliberation.Heartbeat
	// known is false if they are not recorded or could not be read.
	known bool
}

func hear(ctx context.Context, heartbeats Heartbeats) heard {
	if heartbeats == nil {
		return heard{}
	}
	each, recorded, err := heartbeats.Heartbeats(ctx)
	return heard{each: each, known: recorded && err == nil}
}

// sendsHeartbeats reports whether the deployed worker sends them: its own
// user_config says so. Older ones do not.
func (a *application) sendsHeartbeats() bool {
	for _, deployment := range a.Deployments {
		var config struct {
			HeartbeatS float64 `json:"heartbeat_s"`
		}
		if json.Unmarshal(deployment.Config.UserConfig, &config) == nil && config.HeartbeatS > 0 {
			return true
		}
	}
	return false
}

// running are the replicas that Ray says run.
func (a *application) running() []replica {
	var running []replica
	for _, deployment := range a.Deployments {
		for _, replica := range deployment.Replicas {
			if replica.State == statusRunning {
				running = append(running, replica)
			}
		}
	}
	return running
}

// silent are the running replicas without a heartbeat.
func (a *application) silent(each map[string]deliberation.Heartbeat) []replica {
	return slices.DeleteFunc(a.running(), func(r replica) bool { _, beats := each[r.ID]; return beats })
}

// addTo adds to a status what the running replicas of the worker report, and how
// many report nothing.
func (h heard) addTo(status *rayexecutorv1.Cluster, app *application) {
	if !h.known || !app.sendsHeartbeats() {
		return
	}
	var beats []deliberation.Heartbeat
	for _, replica := range app.running() {
		if beat, there := h.each[replica.ID]; there {
			beats = append(beats, beat)
		}
	}
	tellBeats(status, beats)
	if silent := len(app.running()) - len(beats); silent > 0 {
		status.Problems = append(status.Problems, fmt.Sprintf("%d of %s of the worker on Ray, but no heartbeat has come over NATS in the last minute: "+
			"the Ray nodes cannot reach WORKER_NATS_URL, or their login is refused; the replica's log on Ray says which", silent, run(len(app.running()))))
	}
}

// addNamed is addTo for a cluster whose dashboard does not say which replicas it
// has: those of its name count.
func (h heard) addNamed(status *rayexecutorv1.Cluster) {
	var beats []deliberation.Heartbeat
	for _, beat := range h.each {
		if beat.GetCluster() == status.GetName() {
			beats = append(beats, beat)
		}
	}
	if h.known && len(beats) > 0 {
		tellBeats(status, beats)
	}
}

func tellBeats(status *rayexecutorv1.Cluster, beats []deliberation.Heartbeat) {
	status.WorkerHeartbeats = new(int32(min(len(beats), 1<<30)))
	if len(beats) == 0 {
		return
	}
	latest := slices.MinFunc(beats, func(a, b deliberation.Heartbeat) int { return int(a.Age - b.Age) })
	status.HeartbeatAgeSeconds = new(latest.Age.Round(time.Millisecond).Seconds())
	status.Problems = problemsOf(beats)
}

// problemsOf gathers what replicas cannot reach, each once, for example
// `model host vllm:8000: connection refused (2 of 3 replicas)`.
func problemsOf(beats []deliberation.Heartbeat) []string {
	counts := make(map[string]int)
	for _, beat := range beats {
		for _, problem := range beat.GetProblems()[:min(len(beat.GetProblems()), maxProblems)] {
			counts[shorten(problem.GetWhat())+": "+shorten(problem.GetReason())]++
		}
	}
	var problems []string
	for _, problem := range slices.Sorted(maps.Keys(counts)) {
		problems = append(problems, fmt.Sprintf("%s (%d of %s)", problem, counts[problem], replicas(len(beats))))
	}
	return problems[:min(len(problems), maxProblems-1)]
}

// run is `1 replica runs`, `2 replicas run`.
func run(count int) string {
	if count == 1 {
		return replicas(count) + " runs"
	}
	return replicas(count) + " run"
}
