package functions

import (
	"context"
	"fmt"
	"slices"
	"time"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// upgradePause is when to repeat a request that the pool's workers do not all
// support yet.
const upgradePause = 30 * time.Second

// checkWorkers refuses a request with a strategy that the pool's workers do not
// have: an older worker would run it without. It is Invalid if none has it, and
// Unavailable while only some have, as during an upgrade. A pool without workers
// may get any. A request that is accepted already is not refused.
func (f *Functions) checkWorkers(ctx context.Context, record *pb.DeliberationRequested) error {
	level := deliberation.LevelOf(record.GetRequest())
	if level == deliberation.LevelIndependent {
		return nil
	}
	each, bucket, err := f.journal.Heartbeats(ctx)
	if err != nil {
		return err
	}
	able, older := 0, 0
	for _, beat := range each {
		switch {
		case !pulls(beat.WorkerHeartbeat, record.GetPool()):
		case beat.GetLevel() >= level:
			able++
		default:
			older++
		}
	}
	if bucket && older == 0 {
		return nil
	}
	history, err := f.journal.Read(ctx, record.GetDeliberationId())
	if err != nil || history.State != deliberation.Unknown {
		return err
	}
	if able > 0 {
		return &deliberation.Error{
			Code: deliberation.Unavailable, Field: "strategy", RetryAfter: upgradePause,
			Message: fmt.Sprintf("%d of the %d workers of pool %s are of an older version without it: repeat it once all are upgraded", older, able+older, record.GetPool()),
		}
	}
	return deliberation.Invalidf("strategy", "no worker of pool %s has it: the workers are of an older version; the operator upgrades them with `ray-executor deploy`", record.GetPool())
}

func pulls(beat *pb.WorkerHeartbeat, pool string) bool {
	return slices.ContainsFunc(beat.GetPools(), func(one *pb.WorkerHeartbeat_Pool) bool { return one.GetName() == pool })
}
