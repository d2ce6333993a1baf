package deliberation

import (
	"math"

	pb "rayexecutor/proto/ray_executor/v1"
)

// UsageOf returns the sum of what results used; nil if none has it recorded.
func UsageOf(results []*pb.DeliberationResult) *pb.Usage {
	var total *pb.Usage
	for _, result := range results {
		if usage := result.GetUsage(); usage != nil {
			total = addUsage(total, usage)
		}
	}
	return total
}

// addUsage adds to a total, which may be nil, and returns it.
func addUsage(total, more *pb.Usage) *pb.Usage {
	if total == nil {
		total = &pb.Usage{}
	}
	for _, count := range []struct {
		total *int64
		more  int64
	}{
		{&total.PromptTokens, more.GetPromptTokens()},
		{&total.CompletionTokens, more.GetCompletionTokens()},
		{&total.CachedTokens, more.GetCachedTokens()},
		{&total.ReasoningTokens, more.GetReasoningTokens()},
		{&total.Requests, more.GetRequests()},
	} {
		// The counts are a model server's: a wrong one must not make a total negative.
		*count.total += min(max(0, count.more), math.MaxInt64-*count.total)
	}
	return total
}
