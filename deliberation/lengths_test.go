package deliberation_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// TestLengths: every string that a caller sends has a bound, which its error
// names; one character less is taken.
func TestLengths(t *testing.T) {
	t.Parallel()
	r := rules(t)
	metadata := func(entries, key, value int) map[string]string {
		made := make(map[string]string)
		for i := range entries {
			made[fmt.Sprintf("%0*d", key, i)] = strings.Repeat("v", value)
		}
		return made
	}
	for field, set := range map[string]struct {
		most int
		to   func(*pb.ExecuteDeliberationRequest, int)
	}{
		"task_id":    {256, func(r *pb.ExecuteDeliberationRequest, n int) { r.TaskId = strings.Repeat("ä", n) }},
		"role":       {256, func(r *pb.ExecuteDeliberationRequest, n int) { r.Role = strings.Repeat("ä", n) }},
		"vllm_model": {256, func(r *pb.ExecuteDeliberationRequest, n int) { r.VllmModel = strings.Repeat("m", n) }},
		"vllm_url": {2048, func(r *pb.ExecuteDeliberationRequest, n int) {
			r.VllmUrl = "http://localhost/" + strings.Repeat("p", n-17)
		}},
		"agents[0].role":  {256, func(r *pb.ExecuteDeliberationRequest, n int) { r.Agents[0].Role = strings.Repeat("r", n) }},
		"agents[0].model": {256, func(r *pb.ExecuteDeliberationRequest, n int) { r.Agents[0].Model = strings.Repeat("m", n) }},
		"agents[1].fallbacks[0].model": {256, func(r *pb.ExecuteDeliberationRequest, n int) {
			r.Agents[1].Fallbacks = []*pb.ModelEndpoint{{Model: strings.Repeat("m", n)}}
		}},
		"agents[1].fallbacks[0].vllm_url": {2048, func(r *pb.ExecuteDeliberationRequest, n int) {
			r.Agents[1].Fallbacks = []*pb.ModelEndpoint{{VllmUrl: "http://localhost/" + strings.Repeat("p", n-17)}}
		}},
		"constraints.story_id":     {256, func(r *pb.ExecuteDeliberationRequest, n int) { r.Constraints.StoryId = strings.Repeat("s", n) }},
		"constraints.plan_id":      {256, func(r *pb.ExecuteDeliberationRequest, n int) { r.Constraints.PlanId = strings.Repeat("s", n) }},
		"constraints.metadata":     {64, func(r *pb.ExecuteDeliberationRequest, n int) { r.Constraints.Metadata = metadata(n, 2, 1) }},
		"constraints.metadata[":    {64, func(r *pb.ExecuteDeliberationRequest, n int) { r.Constraints.Metadata = metadata(1, n, 1) }},
		`constraints.metadata["0"`: {4096, func(r *pb.ExecuteDeliberationRequest, n int) { r.Constraints.Metadata = metadata(1, 1, n) }},
	} {
		accept := func(n int) error {
			sent := request()
			sent.Constraints = &pb.TaskConstraints{}
			set.to(sent, n)
			_, err := r.Accept("d", sent)
			return err
		}
		if err := accept(set.most); err != nil {
			t.Errorf("%s of %d: %v", field, set.most, err)
		}
		err := accept(set.most + 1)
		got := deliberation.AsError(err)
		if err == nil || got.Code != deliberation.Invalid || !strings.HasPrefix(got.Field, field) || !strings.Contains(got.Message, strconv.Itoa(set.most)) {
			t.Errorf("%s of %d: %v", field, set.most+1, err)
		}
	}
}

// TestErrorsAreShort: what a caller sent is not repeated whole.
func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 1<<19)
	err := deliberation.Invalidf(long, "is not %s", long)
	if length := len([]rune(err.Error())); length > 1200 || !utf8.ValidString(err.Error()) {
		t.Errorf("an error has %d characters", length)
	}
	if got := deliberation.Short(long); len([]rune(got)) != 65 {
		t.Errorf("short is %q", got)
	}
	if got := deliberation.Short("words"); got != "words" {
		t.Errorf("short is %q", got)
	}
}
