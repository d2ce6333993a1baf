package deliberation

import (
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Heartbeat is the last heartbeat of a worker replica.
type Heartbeat struct {
	*pb.WorkerHeartbeat

	// Age is the time since it was stored, on the journal's clock.
	Age time.Duration
}
