// The flags of submit that choose a strategy, and how a strategy's outcome is printed.

package main

import (
	"errors"
	"fmt"

	pb "rayexecutor/proto/ray_executor/v1"
)

// addStrategy adds the flags. Those of the vote come after --strategy, which sets
// the message that they change.
func (s *submission) addStrategy() {
	name := s.flags.String("strategy", "", "`NAME` of the strategy: independent or vote (docs/deliberation.md; default: independent)")
	regex := s.flags.String("vote-regex", "", "`EXPRESSION` whose first group is the answer in a proposal (default: the whole text)")
	pointer := s.flags.String("vote-pointer", "", "JSON `POINTER` to the answer in a proposal that is JSON (default: the whole text)")
	stop := s.flags.Bool("stop-at-majority", false, "ask no more agents than the vote needs")
	s.add("strategy", func(r *request) error {
		switch *name {
		case "independent":
			r.Strategy = &pb.Strategy{Kind: &pb.Strategy_Independent{Independent: &pb.Independent{}}}
		case "vote":
			r.Strategy = &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: &pb.Vote{}}}
		default:
			return fmt.Errorf("%q is unknown; known are independent and vote", *name)
		}
		return nil
	})
	s.addVote("vote-regex", func(v *pb.Vote) { v.Answer = &pb.Vote_Regex{Regex: *regex} })
	s.addVote("vote-pointer", func(v *pb.Vote) { v.Answer = &pb.Vote_JsonPointer{JsonPointer: *pointer} })
	s.addVote("stop-at-majority", func(v *pb.Vote) { v.StopAtMajority = *stop })
}

// addVote adds a flag that changes the request's vote.
func (s *submission) addVote(flag string, set func(*pb.Vote)) {
	s.add(flag, func(r *request) error {
		vote := r.GetStrategy().GetVote()
		if vote == nil {
			return errors.New("needs --strategy vote")
		}
		set(vote)
		return nil
	})
}

// assessed is what the strategy made of a result, in words that follow its outcome.
func assessed(result *pb.DeliberationResult) string {
	metadata := result.GetMetadata()
	text := ""
	if assessment := result.GetAssessment(); assessment != nil {
		text = fmt.Sprintf("; rank %d, score %.2f", assessment.GetRank(), result.GetScore())
	}
	switch {
	case metadata["answer"] != "":
		return text + fmt.Sprintf("; answer %q", metadata["answer"])
	case metadata["no_answer"] != "":
		return text + "; no answer: " + metadata["no_answer"]
	default:
		return text
	}
}
