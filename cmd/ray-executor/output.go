// How the client commands print deliberations, lists and statistics as text.

package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// progress prints how a deliberation proceeds: each event, and a line for every
// ten seconds without one.
type progress struct {
	mu        sync.Mutex // tick shows too
	out       io.Writer
	visible   bool
	state     string
	changed   time.Time              // when the state changed, by this machine's clock
	submitted *timestamppb.Timestamp // by the journal's clock
}

func newProgress(out io.Writer, visible bool) *progress {
	return &progress{out: out, visible: visible}
}

// tick prints a line for every ten seconds without an event, until stop.
func (p *progress) tick() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	ticker := time.NewTicker(reportEvery)
	go func() {
		defer close(ended)
		for {
			select {
			case <-ticker.C:
				p.still()
			case <-done:
				return
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
		<-ended
	}
}

func (p *progress) still() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.visible && p.state != "" {
		fmt.Fprintf(p.out, "  still %s, %.0f s\n", p.state, time.Since(p.changed).Seconds())
	}
}

// show prints an event.
func (p *progress) show(event *pb.WatchDeliberationResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.visible {
		return
	}
	if event.GetStatus() != p.state {
		p.state, p.changed = event.GetStatus(), time.Now()
	}
	after := between(p.submitted, event.GetTime())
	switch {
	case event.GetRequested() != nil:
		p.submitted = event.GetTime()
		fmt.Fprintln(p.out, "  queued")
	case event.GetStarted().GetAttempt() > 1:
		fmt.Fprintf(p.out, "  running, attempt %d, after %s\n", event.GetStarted().GetAttempt(), after)
	case event.GetStarted() != nil:
		fmt.Fprintf(p.out, "  running after %s in the queue\n", after)
	case event.GetAgent() != nil:
		fmt.Fprintf(p.out, "  agent %s %s\n", event.GetAgent().GetResult().GetAgentId(), outcome(event.GetAgent().GetResult()))
	default:
		fmt.Fprintf(p.out, "  %s after %s\n", p.state, after)
	}
}

// elapsed is how long a deliberation took to its end, by the journal's clock.
func elapsed(status *pb.GetDeliberationStatusResponse) string {
	return between(status.GetSubmittedAt(), status.GetEndedAt())
}

func between(from, to *timestamppb.Timestamp) string {
	if from == nil || to == nil {
		return "an unknown time"
	}
	return to.AsTime().Sub(from.AsTime()).Round(100 * time.Microsecond).String()
}

// outcome is an agent's result in a line.
func outcome(result *pb.DeliberationResult) string {
	metadata := result.GetMetadata()
	switch {
	case metadata["status"] == "not_needed":
		return metadata["error"]
	case !deliberation.Proposed(result):
		return "failed: " + metadata["error"]
	}
	duration := ""
	if metadata["duration_ms"] != "" {
		duration = " in " + metadata["duration_ms"] + " ms"
	}
	return "proposed" + duration + assessed(result)
}

func writeStatus(w io.Writer, status *pb.GetDeliberationStatusResponse) {
	fmt.Fprintf(w, "%s %s\n", status.GetDeliberationId(), status.GetStatus())
	for _, why := range []string{status.GetErrorMessage(), status.GetReason()} {
		if why != "" {
			fmt.Fprintf(w, "  %s\n", why)
		}
	}
	if status.GetWinner() != "" {
		fmt.Fprintf(w, "  winner %s\n", status.GetWinner())
	}
	writeFacts(w, status)
	for _, result := range status.GetResults() {
		fmt.Fprintf(w, "\n%s %s\n", result.GetAgentId(), outcome(result))
		for line := range strings.Lines(result.GetProposal()) {
			fmt.Fprintf(w, "  %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

// writeFacts writes where and when a deliberation ran, and what it used.
func writeFacts(w io.Writer, status *pb.GetDeliberationStatusResponse) {
	if status.GetTaskId() != "" {
		fmt.Fprintf(w, "  task %s, pool %s", status.GetTaskId(), status.GetPool())
		if status.GetAttempts() > 0 {
			fmt.Fprintf(w, ", cluster %s, attempt %d", status.GetCluster(), status.GetAttempts())
		}
		fmt.Fprintln(w)
	}
	if submitted := status.GetSubmittedAt(); submitted != nil {
		fmt.Fprintf(w, "  submitted %s", submitted.AsTime().Format(time.RFC3339))
		if status.GetStartedAt() != nil {
			fmt.Fprintf(w, ", started after %s", between(submitted, status.GetStartedAt()))
		}
		if status.GetEndedAt() != nil {
			fmt.Fprintf(w, ", ended after %s", between(submitted, status.GetEndedAt()))
		}
		fmt.Fprintln(w)
	}
	if used := status.GetUsage(); used != nil {
		fmt.Fprintf(w, "  tokens %d prompt (%d cached), %d completion; %d calls of models\n",
			used.GetPromptTokens(), used.GetCachedTokens(), used.GetCompletionTokens(), used.GetRequests())
	}
}

func writeStats(w io.Writer, response *pb.GetStatusResponse) {
	stats := response.GetStats()
	fmt.Fprintf(w, "%s, up %s\n", response.GetStatus(), time.Duration(response.GetUptimeSeconds())*time.Second)
	for _, reason := range response.GetReasons() {
		fmt.Fprintf(w, "  %s\n", reason)
	}
	fmt.Fprintf(w, "deliberations: %d total, %d active (%d queued), %d completed, %d failed, %d cancelled; mean run time %.0f ms\n",
		stats.GetTotalDeliberations(), stats.GetActiveDeliberations(), stats.GetQueuedDeliberations(),
		stats.GetCompletedDeliberations(), stats.GetFailedDeliberations(), stats.GetCancelledDeliberations(),
		stats.GetAverageExecutionTimeMs())
	for _, cluster := range response.GetClusters() {
		fmt.Fprintf(w, "cluster %s at %s: ", cluster.GetName(), cluster.GetAddress())
		if !cluster.GetReachable() {
			fmt.Fprintln(w, "unreachable:", cluster.GetError())
			continue
		}
		fmt.Fprintf(w, "Ray %s, %d nodes, CPUs %.1f of %.1f, GPUs %.1f of %.1f, worker replicas %d of %d\n",
			cluster.GetRayVersion(), cluster.GetNodes(), cluster.GetCpusUsed(), cluster.GetCpusTotal(),
			cluster.GetGpusUsed(), cluster.GetGpusTotal(), cluster.GetWorkerReplicas(), cluster.GetWorkerReplicasTarget())
	}
}
