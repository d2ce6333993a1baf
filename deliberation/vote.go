package deliberation

import (
	"cmp"
	"slices"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Decide assesses the results of all agents of a request, in its order, by its
// strategy. It returns the winner's id, nil if the strategy chooses none.
//
// The worker decides alike (ray/worker/ray_executor_worker/strategies.py). A
// keeper decides at the deadline, without asking a model.
func Decide(request *pb.ExecuteDeliberationRequest, results []*pb.DeliberationResult) (winner *string) {
	if request.GetStrategy().GetVote() == nil {
		return nil
	}
	return count(request.GetAgents(), results)
}

// count counts a vote. Sums are made in the order of the agents, so that every
// counter rounds alike.
func count(agents []*pb.Agent, results []*pb.DeliberationResult) (winner *string) {
	var (
		counts   = make(map[string]float64)
		answers  []string // in the order of the first agents that gave them
		total    float64
		proposed []int
	)
	for i, result := range results {
		if !Proposed(result) {
			continue
		}
		proposed = append(proposed, i)
		answer := result.GetMetadata()["answer"]
		if answer == "" {
			continue
		}
		if _, known := counts[answer]; !known {
			answers = append(answers, answer)
		}
		counts[answer] += voteOf(agents[i])
		total += voteOf(agents[i])
	}
	if len(answers) == 0 {
		return nil
	}
	slices.SortStableFunc(answers, func(a, b string) int { return cmp.Compare(counts[b], counts[a]) })
	standing := make(map[string]int, len(answers))
	for rank, answer := range answers {
		standing[answer] = rank
	}
	// Proposals without an answer come last.
	place := func(i int) int {
		if rank, voted := standing[results[i].GetMetadata()["answer"]]; voted {
			return rank
		}
		return len(answers)
	}
	slices.SortStableFunc(proposed, func(a, b int) int { return place(a) - place(b) })
	for rank, i := range proposed {
		votes := counts[results[i].GetMetadata()["answer"]]
		results[i].Score = float32(votes / total)
		results[i].Assessment = &pb.Assessment{Rank: int32(rank + 1), Votes: float32(votes)}
	}
	return new(results[proposed[0]].GetAgentId())
}

// voteOf is the weight of an agent's vote.
func voteOf(agent *pb.Agent) float64 {
	if agent.GetWeight() == 0 {
		return 1
	}
	return float64(agent.GetWeight())
}
