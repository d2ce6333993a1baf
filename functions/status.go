package functions

import (
	"context"
	"time"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// heartbeatWait bounds the wait for the workers' heartbeats, which are usually in
// memory.
const heartbeatWait = time.Second

// Status returns the state of a deliberation and its results so far. An unknown id
// is no error: its status is not_found, as in the Python service. So is that of
// another tenant's.
//
// It may read a replica, and so misses what was stored a moment ago, except an end:
// see Journal.Read.
func (f *Functions) Status(ctx context.Context, request *pb.GetDeliberationStatusRequest, _ Origin) (*pb.GetDeliberationStatusResponse, error) {
	if err := f.rules.Check(request); err != nil {
		return nil, err
	}
	history, err := f.journal.Read(ctx, request.GetDeliberationId())
	if err != nil {
		return nil, about(request.GetDeliberationId(), err)
	}
	if history, err = f.visible(ctx, history); err != nil {
		return nil, err
	}
	status := history.Status(request.GetDeliberationId())
	if reason := f.waitsFor(ctx, history); reason != "" {
		status.Reason = new(reason)
	}
	return status, nil
}

// waitsFor says what a running deliberation waits for. A heartbeat that cannot be
// read does not fail the status.
func (f *Functions) waitsFor(ctx context.Context, history *deliberation.History) string {
	if history.State != deliberation.Running {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, heartbeatWait)
	defer cancel()
	each, _, err := f.journal.Heartbeats(ctx)
	if err != nil {
		return ""
	}
	return history.WaitsFor(each[history.Replica].WorkerHeartbeat)
}
