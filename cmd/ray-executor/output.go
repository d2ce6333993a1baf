package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// progress shows how a deliberation goes, each change once, and every ten
// seconds that nothing has changed.
type progress struct {
	out     io.Writer
	visible bool
	state   string
	changed time.Time       // when the state did
	said    time.Time       // when anything was
	told    map[string]bool // agents
}

func newProgress(out io.Writer, visible bool) *progress {
	return &progress{out: out, visible: visible, told: make(map[string]bool)}
}

func (p *progress) show(status *pb.GetDeliberationStatusResponse) {
	if !p.visible {
		return
	}
	now := time.Now()
	switch {
	case status.GetStatus() != p.state:
		p.state, p.changed, p.said = status.GetStatus(), now, now
		fmt.Fprintf(p.out, "  %s%s\n", p.state, since(status))
	case now.Sub(p.said) >= sayEvery:
		p.said = now
		fmt.Fprintf(p.out, "  still %s, %.0f s\n", p.state, now.Sub(p.changed).Seconds())
	}
	for _, result := range status.GetResults() {
		if !p.told[result.GetAgentId()] {
			p.told[result.GetAgentId()] = true
			fmt.Fprintf(p.out, "  agent %s %s\n", result.GetAgentId(), outcome(result))
		}
	}
}

// since tells how long a step took, by the journal's clock.
func since(status *pb.GetDeliberationStatusResponse) string {
	switch deliberation.State(status.GetStatus()) {
	case deliberation.Running:
		return " after " + between(status.GetSubmittedAt(), status.GetStartedAt()) + " in the queue"
	case deliberation.Completed, deliberation.Failed, deliberation.Cancelled:
		return " after " + between(status.GetSubmittedAt(), status.GetEndedAt()) + " in all"
	default:
		return ""
	}
}

func between(from, to *timestamppb.Timestamp) string {
	if from == nil || to == nil {
		return "no time"
	}
	return to.AsTime().Sub(from.AsTime()).Round(100 * time.Microsecond).String()
}

// outcome tells what an agent came to, in a line.
func outcome(result *pb.DeliberationResult) string {
	metadata := result.GetMetadata()
	if !deliberation.Proposed(result) {
		return "failed: " + metadata["error"]
	}
	took := ""
	if metadata["duration_ms"] != "" {
		took = " in " + metadata["duration_ms"] + " ms"
	}
	return "proposed" + took
}

func writeStatus(w io.Writer, status *pb.GetDeliberationStatusResponse) {
	fmt.Fprintf(w, "%s %s\n", status.GetDeliberationId(), status.GetStatus())
	if status.GetErrorMessage() != "" {
		fmt.Fprintf(w, "  %s\n", status.GetErrorMessage())
	}
	for _, result := range status.GetResults() {
		fmt.Fprintf(w, "\n%s %s\n", result.GetAgentId(), outcome(result))
		for line := range strings.Lines(result.GetProposal()) {
			fmt.Fprintf(w, "  %s\n", strings.TrimRight(line, "\n"))
		}
	}
}

func writeList(w io.Writer, list *pb.ListDeliberationsResponse) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DELIBERATION\tSTATE\tTASK\tPOOL\tAGENTS\tATTEMPTS\tSUBMITTED")
	for _, one := range list.GetDeliberations() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", one.GetDeliberationId(), one.GetStatus(), one.GetTaskId(),
			one.GetPool(), one.GetAgents(), one.GetAttempts(), one.GetSubmittedAt().AsTime().Format(time.RFC3339))
	}
	_ = table.Flush() // to a terminal or a pipe; nobody to tell
	if list.GetNextPageToken() != "" {
		fmt.Fprintf(w, "more: --page-token %s\n", list.GetNextPageToken())
	}
}

func writeStats(w io.Writer, response *pb.GetStatusResponse) {
	stats := response.GetStats()
	fmt.Fprintf(w, "%s, up %s\n", response.GetStatus(), time.Duration(response.GetUptimeSeconds())*time.Second)
	for _, reason := range response.GetReasons() {
		fmt.Fprintf(w, "  %s\n", reason)
	}
	fmt.Fprintf(w, "deliberations: %d in all, %d active (%d queued), %d completed, %d failed, %d cancelled; %.0f ms on average\n",
		stats.GetTotalDeliberations(), stats.GetActiveDeliberations(), stats.GetQueuedDeliberations(),
		stats.GetCompletedDeliberations(), stats.GetFailedDeliberations(), stats.GetCancelledDeliberations(),
		stats.GetAverageExecutionTimeMs())
	for _, cluster := range response.GetClusters() {
		fmt.Fprintf(w, "cluster %s at %s: ", cluster.GetName(), cluster.GetAddress())
		if !cluster.GetReachable() {
			fmt.Fprintf(w, "cannot be reached\n")
			continue
		}
		fmt.Fprintf(w, "Ray %s, %d nodes, CPUs %.1f of %.1f, GPUs %.1f of %.1f, worker replicas %d of %d\n",
			cluster.GetRayVersion(), cluster.GetNodes(), cluster.GetCpusUsed(), cluster.GetCpusTotal(),
			cluster.GetGpusUsed(), cluster.GetGpusTotal(), cluster.GetWorkerReplicas(), cluster.GetWorkerReplicasTarget())
	}
}
