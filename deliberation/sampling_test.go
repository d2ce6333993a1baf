package deliberation_test

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestSamplingIsChecked(t *testing.T) {
	t.Parallel()
	r := rules(t, func(s *deliberation.Settings) { s.Parameters = []string{"truncate_prompt_tokens"} })
	extra := func(name string) *structpb.Struct {
		return &structpb.Struct{Fields: map[string]*structpb.Value{name: structpb.NewNumberValue(1)}}
	}
	for name, test := range map[string]struct {
		sampling *pb.Sampling
		field    string // empty: accepted
	}{
		"nothing":              {&pb.Sampling{}, ""},
		"temperature 0":        {&pb.Sampling{Temperature: proto.Float64(0)}, ""},
		"temperature above 2":  {&pb.Sampling{Temperature: proto.Float64(2.1)}, "temperature"},
		"temperature NaN":      {&pb.Sampling{Temperature: proto.Float64(math.NaN())}, "temperature"},
		"top_p 0":              {&pb.Sampling{TopP: proto.Float64(0)}, "top_p"},
		"top_p 1":              {&pb.Sampling{TopP: proto.Float64(1)}, ""},
		"no tokens":            {&pb.Sampling{MaxTokens: proto.Int32(0)}, "max_tokens"},
		"a negative seed":      {&pb.Sampling{Seed: proto.Int64(-1)}, ""},
		"an empty stop":        {&pb.Sampling{Stop: []string{""}}, "stop[0]"},
		"too many stops":       {&pb.Sampling{Stop: strings.Split(strings.Repeat("x ", 17), " ")}, "stop"},
		"top_k all":            {&pb.Sampling{TopK: proto.Int32(-1)}, ""},
		"top_k below":          {&pb.Sampling{TopK: proto.Int32(-2)}, "top_k"},
		"min_p above 1":        {&pb.Sampling{MinP: proto.Float64(1.5)}, "min_p"},
		"presence_penalty":     {&pb.Sampling{PresencePenalty: proto.Float64(-2.5)}, "presence_penalty"},
		"frequency_penalty":    {&pb.Sampling{FrequencyPenalty: proto.Float64(3)}, "frequency_penalty"},
		"repetition_penalty 0": {&pb.Sampling{RepetitionPenalty: proto.Float64(0)}, "repetition_penalty"},
		"infinite":             {&pb.Sampling{RepetitionPenalty: proto.Float64(math.Inf(1))}, "repetition_penalty"},
		"effort in words":      {&pb.Sampling{ReasoningEffort: "high"}, ""},
		"effort, capital":      {&pb.Sampling{ReasoningEffort: "High"}, "reasoning_effort"},
		"an allowed extra":     {&pb.Sampling{Extra: extra("truncate_prompt_tokens")}, ""},
		"another extra":        {&pb.Sampling{Extra: extra("logits_processors")}, "extra"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for prefix, asked := range map[string]*pb.ExecuteDeliberationRequest{
				"sampling.":           request(func(r *pb.ExecuteDeliberationRequest) { r.Sampling = test.sampling }),
				"agents[1].sampling.": request(func(r *pb.ExecuteDeliberationRequest) { r.Agents[1].Sampling = test.sampling }),
			} {
				_, err := r.Accept("d", asked)
				if test.field == "" {
					if err != nil {
						t.Errorf("%s: %v", prefix, err)
					}
					continue
				}
				if refused := deliberation.AsError(err); err == nil || refused.Code != deliberation.Invalid || refused.Field != prefix+test.field {
					t.Errorf("%v; want it refused for %s%s", err, prefix, test.field)
				}
			}
		})
	}
}

func TestSystemPromptIsATemplate(t *testing.T) {
	t.Parallel()
	r := rules(t)
	for prompt, says := range map[string]string{
		"You write {lang}.":                   "",
		"You write {language}.":               "{language} is unknown",
		strings.Repeat("{lang}", 1<<17) + "x": "",
	} {
		_, err := r.Accept("d", request(func(r *pb.ExecuteDeliberationRequest) { r.Agents[0].SystemPrompt = prompt }))
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%.40s: %v", prompt, err)
		}
	}
	long := request(func(r *pb.ExecuteDeliberationRequest) {
		r.Constraints.Metadata["long"] = strings.Repeat("x", 4096)
		r.Agents[0].SystemPrompt = strings.Repeat("{long}", 300)
	})
	if _, err := r.Accept("d", long); err == nil || !strings.Contains(err.Error(), "agents[0].system_prompt") {
		t.Errorf("a system prompt that fills to 1.2 MB: %v", err)
	}
}

func TestCheckParameter(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"truncate_prompt_tokens": true, "messages": false, "temperature": false, "": false, "Upper": false, "a.b": false, "stream": false,
	} {
		if err := deliberation.CheckParameter(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
