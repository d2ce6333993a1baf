package deliberation

import (
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Heartbeat is what a worker replica said of itself the last time.
type Heartbeat struct {
	*pb.WorkerHeartbeat

	// Age is how long ago, on the journal's clock.
	Age time.Duration
}
