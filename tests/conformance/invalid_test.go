package conformance_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	pb "rayexecutor/proto/ray_executor/v1"
)

// A mistake is a request that is out of range at one field (contract 1).
type mistake struct {
	field   string
	what    string
	request proto.Message
}

func submitWith(change func(*pb.ExecuteDeliberationRequest)) *pb.ExecuteDeliberationRequest {
	made := request("never")
	change(made)
	return made
}

func mistakes() []mistake {
	type submitted = pb.ExecuteDeliberationRequest
	var all []mistake
	add := func(field, what string, request proto.Message) { all = append(all, mistake{field, what, request}) }
	in := func(field, what string, change func(*submitted)) { add(field, what, submitWith(change)) }
	for what, blank := range map[string]string{"empty": "", "blank": " \t\n", "invisible": "\u200b\u2003\u2028"} {
		in("task_id", what, func(r *submitted) { r.TaskId = blank })
		in("task_description", what, func(r *submitted) { r.TaskDescription = blank })
		in("role", what, func(r *submitted) { r.Role = blank })
	}
	in("agents", "none", func(r *submitted) { r.Agents = nil })
	in("agents", "257", func(r *submitted) { r.Agents = agents(257) })
	in("agents", "one id twice", func(r *submitted) { r.Agents[1].Id = r.GetAgents()[0].GetId() })
	for _, id := range []string{"", strings.Repeat("a", 65), "a b", "a/b", "ä", "a\n", "a*"} {
		in("agents[1].id", fmt.Sprintf("%.8q", id), func(r *submitted) { r.Agents[1].Id = id })
	}
	for _, id := range []string{strings.Repeat("a", 65), "a.b", "a b", "ä", "*", ">", "a\n", "../a"} {
		in("deliberation_id", fmt.Sprintf("%.8q", id), func(r *submitted) { r.DeliberationId = id })
		add("deliberation_id", fmt.Sprintf("%.8q", id), &pb.GetDeliberationStatusRequest{DeliberationId: id})
		add("deliberation_id", fmt.Sprintf("%.8q", id), &pb.CancelDeliberationRequest{DeliberationId: id})
	}
	for _, pool := range []string{"Default", strings.Repeat("a", 33), "a_b", "a b", "undeclared", "*"} {
		in("pool", fmt.Sprintf("%.8q", pool), func(r *submitted) { r.Pool = pool })
	}
	for _, seconds := range []int32{-1, 86401, -1 << 31, 1<<31 - 1} {
		in("constraints.timeout_seconds", fmt.Sprint(seconds), func(r *submitted) { r.Constraints = &pb.TaskConstraints{TimeoutSeconds: seconds} })
	}
	in("agents[1].system_prompt", "an unknown placeholder", func(r *submitted) { r.Agents[1].SystemPrompt = "{nobody}" })
	in("agents[1].fallbacks", "5", func(r *submitted) {
		r.Agents[1].Fallbacks = slices.Repeat([]*pb.ModelEndpoint{{Model: "m"}}, 5)
	})
	in("agents[1].fallbacks[0]", "neither a URL nor a model", func(r *submitted) { r.Agents[1].Fallbacks = []*pb.ModelEndpoint{{}} })
	in("agents[1].fallbacks[1].vllm_url", "a host that is not allowed", func(r *submitted) {
		r.Agents[1].Fallbacks = []*pb.ModelEndpoint{{Model: "m"}, {VllmUrl: "http://elsewhere.example"}}
	})
	samplings := map[string]*pb.Sampling{
		"temperature": {Temperature: proto.Float64(2.5)}, "top_p": {TopP: proto.Float64(0)}, "max_tokens": {MaxTokens: proto.Int32(0)},
		"stop[0]": {Stop: []string{""}}, "top_k": {TopK: proto.Int32(-2)}, "min_p": {MinP: proto.Float64(-1)},
		"presence_penalty": {PresencePenalty: proto.Float64(3)}, "frequency_penalty": {FrequencyPenalty: proto.Float64(-3)},
		"repetition_penalty": {RepetitionPenalty: proto.Float64(0)}, "reasoning_effort": {ReasoningEffort: "VERY"},
		"extra": {Extra: &structpb.Struct{Fields: map[string]*structpb.Value{"logits_processors": structpb.NewBoolValue(true)}}},
	}
	for _, field := range slices.Sorted(maps.Keys(samplings)) { // docs/conformance.md lists them in this order
		sampling := samplings[field]
		in("sampling."+field, "out of range", func(r *submitted) { r.Sampling = sampling })
		in("agents[1].sampling."+field, "out of range", func(r *submitted) { r.Agents[1].Sampling = sampling })
	}
	for what, schema := range map[string]string{"no JSON": "{", "no schema": `{"type": 7}`, "a reference to elsewhere": `{"$ref": "http://127.0.0.1/"}`} {
		in("response_format.json_schema", what, func(r *submitted) {
			r.ResponseFormat = &pb.ResponseFormat{Format: &pb.ResponseFormat_JsonSchema{JsonSchema: schema}}
		})
	}
	in("response_format.regex", "no expression", func(r *submitted) {
		r.ResponseFormat = &pb.ResponseFormat{Format: &pb.ResponseFormat_Regex{Regex: "("}}
	})
	in("response_format.choice.values", "none", func(r *submitted) {
		r.ResponseFormat = &pb.ResponseFormat{Format: &pb.ResponseFormat_Choice{Choice: &pb.Choice{}}}
	})
	in("strategy.kind", "none", func(r *submitted) { r.Strategy = &pb.Strategy{} })
	in("strategy.vote.regex", "no expression", func(r *submitted) {
		r.Strategy = &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: &pb.Vote{Answer: &pb.Vote_Regex{Regex: "("}}}}
	})
	in("strategy.vote.json_pointer", "no pointer", func(r *submitted) {
		r.Strategy = &pb.Strategy{Kind: &pb.Strategy_Vote{Vote: &pb.Vote{Answer: &pb.Vote_JsonPointer{JsonPointer: "answer"}}}}
	})
	in("agents[1].weight", "negative", func(r *submitted) { r.Agents[1].Weight = -1 })
	for _, retries := range []int32{-1, 11} {
		in("constraints.max_retries", fmt.Sprint(retries), func(r *submitted) { r.Constraints = &pb.TaskConstraints{MaxRetries: &retries} })
	}
	for _, url := range []string{
		"ftp://" + allowedHost, "file:///etc/passwd", allowedHost, "//" + allowedHost, "http://", "http:// " + allowedHost,
		"http://user@" + allowedHost, "http://user:secret@" + allowedHost, "http://" + allowedHost + "?a=b",
		"http://" + allowedHost + "?", "http://" + allowedHost + "#a", "http://" + allowedHost + "#",
		"http://elsewhere.test", "http://" + allowedHost + ".evil.test", "http://sub." + allowedHost, "http://169.254.169.254",
		"http://" + allowedHost + ":0", "http://" + allowedHost + ":99999", "http://" + allowedHost + "@evil.test", `http://evil.test\@` + allowedHost,
	} {
		in("vllm_url", url, func(r *submitted) { r.VllmUrl = url })
	}
	for _, template := range []string{"{unknown}", "{role.upper}", "{metadata[0]}", "{a.b}", "fine {role}, not {Role}"} {
		in("agents[1].prompt_template", template, func(r *submitted) { r.Agents[1].PromptTemplate = template })
	}
	in("agents[1].prompt_template", "fills to 14 GB", func(r *submitted) {
		r.TaskDescription, r.Agents[1].PromptTemplate = strings.Repeat("x", 500_000), strings.Repeat("{task_description}", 28_000)
	})
	in("agents", "fill to 128 MB together", func(r *submitted) {
		r.TaskDescription, r.Agents = strings.Repeat("x", 500_000), agents(256)
	})
	all = append(all, tooLong()...)
	add("reason", "4,097 characters", &pb.CancelDeliberationRequest{DeliberationId: "nobody-knows", Reason: strings.Repeat("x", 4097)})
	add("state", "done", &pb.ListDeliberationsRequest{State: "done"})
	add("pool", "Default", &pb.ListDeliberationsRequest{Pool: "Default"})
	add("labels[0]", "no value", &pb.ListDeliberationsRequest{Labels: []string{"team"}})
	add("labels[0]", "no key", &pb.ListDeliberationsRequest{Labels: []string{"=a"}})
	add("labels", "twice", &pb.ListDeliberationsRequest{Labels: []string{"team=a", "team=b"}})
	add("labels", "17", &pb.ListDeliberationsRequest{Labels: slices.Repeat([]string{"a=b"}, 17)})
	add("page_size", "-1", &pb.ListDeliberationsRequest{PageSize: -1})
	add("page_size", "201", &pb.ListDeliberationsRequest{PageSize: 201})
	for _, token := range []string{"0", "-1", "x", "1.5", " 1", strings.Repeat("1", 64), strings.Repeat("1", 65)} {
		add("page_token", fmt.Sprintf("%.8q", token), &pb.ListDeliberationsRequest{PageToken: token})
	}
	return all
}

// tooLong are strings and maps above their lengths (contract 11).
func tooLong() []mistake {
	type submitted = pb.ExecuteDeliberationRequest
	long, metadata := strings.Repeat("ä", 257), make(map[string]string)
	for i := range 65 {
		metadata[fmt.Sprint(i)] = "v"
	}
	labelled := func(labels map[string]string) func(*submitted) { return func(r *submitted) { r.Labels = labels } }
	many := make(map[string]string)
	for i := range 17 {
		many[fmt.Sprint(i)] = "v"
	}
	constraints := func(set *pb.TaskConstraints) func(*submitted) { return func(r *submitted) { r.Constraints = set } }
	all := []mistake{{"task_id", "257 characters", &pb.ListDeliberationsRequest{TaskId: long}}}
	for field, change := range map[string]func(*submitted){
		"task_id":                      func(r *submitted) { r.TaskId = long },
		"role":                         func(r *submitted) { r.Role = long },
		"vllm_model":                   func(r *submitted) { r.VllmModel = long },
		"vllm_url":                     func(r *submitted) { r.VllmUrl = "http://" + allowedHost + "/" + strings.Repeat("p", 2048) },
		"agents[1].role":               func(r *submitted) { r.Agents[1].Role = long },
		"agents[1].model":              func(r *submitted) { r.Agents[1].Model = long },
		"constraints.story_id":         constraints(&pb.TaskConstraints{StoryId: long}),
		"constraints.plan_id":          constraints(&pb.TaskConstraints{PlanId: long}),
		"labels":                       labelled(many),
		`labels["k"]`:                  labelled(map[string]string{"k": strings.Repeat("v", 257)}),
		`labels["` + long[:128] + `"]`: labelled(map[string]string{long[:128]: "v"}),
		"constraints.metadata":         constraints(&pb.TaskConstraints{Metadata: metadata}),
		`constraints.metadata["k"]`:    constraints(&pb.TaskConstraints{Metadata: map[string]string{"k": strings.Repeat("v", 4097)}}),
	} {
		all = append(all, mistake{field, "too long", submitWith(change)})
	}
	slices.SortFunc(all, func(a, b mistake) int { return strings.Compare(a.field, b.field) })
	return all
}

// invalidRows are a row a field of each request, with all the mistakes in it.
func invalidRows() []row {
	var rows []row
	byName := make(map[string]int)
	for _, one := range mistakes() {
		name := fmt.Sprintf("%s: %s", method(one.request), one.field)
		place, known := byName[name]
		if !known {
			place = len(rows)
			byName[name] = place
			rows = append(rows, row{name: name, run: func(*testing.T, *house, door) {}})
		}
		others := rows[place].run
		rows[place].run = func(t *testing.T, h *house, f door) {
			others(t, h, f)
			refusedAt(t, f, one)
		}
	}
	return append(rows,
		row{name: "above 1 MiB", run: func(t *testing.T, _ *house, f door) {
			for _, size := range []int{1<<20 + 1, 3 << 20} {
				sent := sized(fresh(t), size)
				if refusal := ask(t, f, sent, tooLarge); refusal.field == "" {
					t.Errorf("%d bytes are refused with %v", size, refusal)
				}
				ask(t, f, &pb.GetDeliberationStatusRequest{DeliberationId: sent.GetDeliberationId()}, notFound)
			}
		}},
		row{name: "no message at all", about: sendsBytes, run: func(t *testing.T, _ *house, f door) {
			askAs(t, f, call{request: request(fresh(t)), broken: true}, invalid)
		}},
	)
}

func refusedAt(t *testing.T, f door, one mistake) {
	t.Helper()
	t.Run(one.what, func(t *testing.T) {
		if refusal := ask(t, f, one.request, invalid); refusal.field != one.field || refusal.detail == "" {
			t.Errorf("%v is refused with %v", one.request, refusal)
		}
	})
}
