package deliberation_test

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/vectors"
)

func voting(agents ...*pb.Agent) *pb.ExecuteDeliberationRequest {
	return request(func(r *pb.ExecuteDeliberationRequest) {
		r.Agents = agents
		r.Strategy = &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: &pb.Vote{}}}
	})
}

// The worker counts by the same vectors.
func TestVoteVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors.Read[struct {
		Name    string
		Weights []float32
		// A text; null where the proposal has no answer, false where the agent failed.
		Answers []json.RawMessage
		Winner  int
		Ranks   []int32
		Votes   []float64
		Scores  []float64
	}](t, "votes.json") {
		var (
			agents  []*pb.Agent
			results []*pb.DeliberationResult
		)
		for i, weight := range v.Weights {
			id := "a" + strconv.Itoa(i)
			agents = append(agents, &pb.Agent{Id: id, Weight: weight})
			metadata := map[string]string{"status": "completed"}
			switch text := string(v.Answers[i]); text {
			case "null":
			case "false":
				metadata["error"] = "no answer"
			default:
				metadata["answer"] = text
			}
			results = append(results, &pb.DeliberationResult{AgentId: id, Metadata: metadata})
		}
		winner := ""
		if v.Winner >= 0 {
			winner = "a" + strconv.Itoa(v.Winner)
		}
		got := deliberation.Decide(voting(agents...), results)
		if (got != nil) != (v.Winner >= 0) || got != nil && *got != winner {
			t.Errorf("%s: the winner is %v, want %q", v.Name, got, winner)
		}
		for i, result := range results {
			if result.GetAssessment().GetRank() != v.Ranks[i] || result.GetAssessment().GetVotes() != float32(v.Votes[i]) ||
				math.Abs(float64(result.GetScore())-v.Scores[i]) > 1e-7 {
				t.Errorf("%s: agent %d: %v, score %v", v.Name, i, result.GetAssessment(), result.GetScore())
			}
		}
	}
}

func TestOnlyAVoteIsDecided(t *testing.T) {
	t.Parallel()
	for name, strategy := range map[string]*pb.Strategy{
		"none": nil, "independent": {Kind: &pb.Strategy_Independent{Independent: &pb.Independent{}}},
	} {
		results := []*pb.DeliberationResult{{AgentId: "a-1", Metadata: map[string]string{"answer": "x"}}}
		r := request(func(r *pb.ExecuteDeliberationRequest) { r.Strategy = strategy })
		if winner := deliberation.Decide(r, results); winner != nil || results[0].GetAssessment() != nil {
			t.Errorf("%s: %v, %v", name, winner, results[0])
		}
	}
}

func TestStatusOfAVote(t *testing.T) {
	t.Parallel()
	proposal := func(id, text string) *pb.DeliberationResult {
		return &pb.DeliberationResult{AgentId: id, Proposal: text, Metadata: map[string]string{"status": "completed", "answer": text}}
	}
	r := voting(&pb.Agent{Id: "a"}, &pb.Agent{Id: "b"})
	entries := []deliberation.Entry{
		{Sequence: 1, Event: &pb.DeliberationRequested{DeliberationId: "d", Request: r}},
		{Sequence: 2, Event: &pb.DeliberationStarted{Attempt: 1}},
		{Sequence: 3, Event: &pb.AgentCompleted{AgentIndex: 1, Result: proposal("b", "y")}},
	}
	running := deliberation.Fold(entries).Status("d")
	if running.GetWinner() != "" || len(running.GetRounds()) != 1 || running.GetRounds()[0].GetTurns()[0].GetText() != "y" {
		t.Errorf("running: %v", running)
	}
	ended := deliberation.Fold(append(slices.Clone(entries), deliberation.Entry{Sequence: 4, Event: &pb.DeliberationCompleted{
		Results: []*pb.DeliberationResult{proposal("a", "x"), proposal("b", "y")}, Winner: proto.String("b"),
	}})).Status("d")
	if ended.GetWinner() != "b" || ended.GetResult().GetAgentId() != "b" || len(ended.GetRounds()[0].GetTurns()) != 2 {
		t.Errorf("ended: %v", ended)
	}
	// Without a strategy a caller sees no new field.
	entries[0].Event = &pb.DeliberationRequested{DeliberationId: "d", Request: request()}
	if old := deliberation.Fold(entries).Status("d"); old.GetRounds() != nil || old.Winner != nil {
		t.Errorf("without a strategy: %v", old)
	}
}
