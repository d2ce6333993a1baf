package deliberation

import (
	"fmt"
	"net/url"
	"strings"

	pb "rayexecutor/proto/ray_executor/v1"
)

// WaitsFor says which model server a running deliberation waits for, by the
// heartbeat of the replica that started it; empty if it waits for none. It waits
// if an agent has no result and its server is one that the replica waits for.
func (d *History) WaitsFor(beat *pb.WorkerHeartbeat) string {
	if d.State != Running || d.Replica == "" || d.Replica != beat.GetReplica() {
		return ""
	}
	reasons := make(map[string]string, len(beat.GetWaiting()))
	for _, one := range beat.GetWaiting() {
		reasons[one.GetEndpoint()] = one.GetReason()
	}
	if len(reasons) == 0 {
		return ""
	}
	endpoint := endpointOf(d.Requested.GetVllmUrl())
	reason, waits := reasons[endpoint]
	if !waits || len(d.agents) >= len(d.Requested.GetRequest().GetAgents()) {
		return ""
	}
	return fmt.Sprintf("waiting for model server %s: %s", endpoint, reason)
}

// endpointOf returns a model server's host and port, as the worker names it.
func endpointOf(raw string) string {
	parsed, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	port := parsed.Port()
	if port == "" {
		port = schemePorts[parsed.Scheme]
	}
	return strings.ToLower(parsed.Hostname()) + ":" + port
}
