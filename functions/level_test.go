package functions_test

import (
	"context"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

// replicas is a journal with heartbeats of these levels, by pool.
type replicas struct {
	functions.Journal
	levels   map[string][]int32
	noBucket bool
	err      error
}

func (r *replicas) Heartbeats(context.Context) (map[string]deliberation.Heartbeat, bool, error) {
	each := make(map[string]deliberation.Heartbeat)
	for pool, levels := range r.levels {
		for i, level := range levels {
			each[pool+string(rune('a'+i))] = deliberation.Heartbeat{WorkerHeartbeat: &pb.WorkerHeartbeat{
				Level: level, Pools: []*pb.WorkerHeartbeat_Pool{{Name: pool}},
			}}
		}
	}
	return each, !r.noBucket, r.err
}

// A worker of an older version would run a vote without the vote.
func TestOlderWorkersGetNoStrategy(t *testing.T) {
	t.Parallel()
	vote := func(id string) *pb.ExecuteDeliberationRequest {
		r := request(id)
		r.Strategy = &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: &pb.Vote{}}}
		return r
	}
	workers := &replicas{levels: map[string][]int32{"default": {0, 0}, "gpu": {1, 1}}}
	f := setup(t, func(o *functions.Options) { workers.Journal, o.Journal = o.Journal, workers })
	submit := func(r *pb.ExecuteDeliberationRequest) error {
		_, err := f.Submit(t.Context(), r, functions.Origin{})
		return err
	}
	if err := submit(request("plain")); err != nil {
		t.Errorf("without a strategy: %v", err)
	}
	explicit := request("explicit")
	explicit.Strategy = &pb.Strategy{Kind: &pb.Strategy_Independent{Independent: &pb.Independent{}}}
	if err := submit(explicit); err != nil {
		t.Errorf("independent: %v", err)
	}
	refused(t, submit(vote("d")), deliberation.Invalid, "strategy")
	elsewhere := vote("elsewhere")
	elsewhere.Pool = "gpu"
	if err := submit(elsewhere); err != nil {
		t.Errorf("in a pool of new workers: %v", err)
	}

	// An upgrade, replica by replica.
	workers.levels["default"] = []int32{0, 1}
	refused(t, submit(vote("d")), deliberation.Unavailable, "strategy")
	workers.levels["default"] = []int32{1, 1, 2}
	if err := submit(vote("d")); err != nil {
		t.Errorf("after the upgrade: %v", err)
	}
	// A repeat finds what was accepted, whoever works now.
	workers.levels["default"] = []int32{0}
	if err := submit(vote("d")); err != nil {
		t.Errorf("a repeat: %v", err)
	}

	workers.levels = nil
	if err := submit(vote("nobody")); err != nil {
		t.Errorf("without any worker: %v", err)
	}
	workers.noBucket = true
	refused(t, submit(vote("old")), deliberation.Invalid, "strategy")
	workers.err = away
	refused(t, submit(vote("away")), deliberation.Unavailable, "NATS_URL")
}
