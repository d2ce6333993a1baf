package deliberation_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func rules(tb testing.TB, change ...func(*deliberation.Settings)) *deliberation.Rules {
	tb.Helper()
	settings := deliberation.Settings{
		Pools: []string{"default", "gpu"}, ModelHosts: []string{"vllm.svc:8000", "*.models.example", "localhost"},
		ModelURL: "http://vllm.svc:8000", Model: "qwen",
	}
	for _, alter := range change {
		alter(&settings)
	}
	r, err := deliberation.NewRules(settings)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func request(change ...func(*pb.ExecuteDeliberationRequest)) *pb.ExecuteDeliberationRequest {
	r := &pb.ExecuteDeliberationRequest{
		TaskId: "t-1", TaskDescription: "Decide.", Role: "DEV",
		Constraints: &pb.TaskConstraints{Metadata: map[string]string{"lang": "Go"}},
		Agents:      []*pb.Agent{{Id: "a-1"}, {Id: "a-2"}},
	}
	for _, alter := range change {
		alter(r)
	}
	return r
}

func agents(n int) []*pb.Agent {
	many := make([]*pb.Agent, n)
	for i := range many {
		many[i] = &pb.Agent{Id: fmt.Sprintf("a%d", i)}
	}
	return many
}

func TestAcceptChecksEveryField(t *testing.T) {
	t.Parallel()
	r := rules(t)
	type req = pb.ExecuteDeliberationRequest
	for name, test := range map[string]struct {
		change func(*req)
		field  string // empty: accepted
		says   string
	}{
		"as it is":               {func(*req) {}, "", ""},
		"no task id":             {func(r *req) { r.TaskId = "" }, "task_id", "blank"},
		"blank task id":          {func(r *req) { r.TaskId = " \t\r\n" }, "task_id", "blank"},
		"no description":         {func(r *req) { r.TaskDescription = "" }, "task_description", "blank"},
		"no-break spaces":        {func(r *req) { r.TaskDescription = "\u00a0\u2003\u3000" }, "task_description", "blank"},
		"line separators":        {func(r *req) { r.TaskDescription = "\u2028\u2029" }, "task_description", "blank"},
		"vertical tab and NEL":   {func(r *req) { r.TaskDescription = "\v\u0085" }, "task_description", "blank"},
		"zero-width":             {func(r *req) { r.Role = "\u200b\ufeff\u2060" }, "role", "blank"},
		"no role":                {func(r *req) { r.Role = "" }, "role", "blank"},
		"one letter among them":  {func(r *req) { r.Role = "\u00a0x\v" }, "", ""},
		"any script":             {func(r *req) { r.TaskDescription = "決める" }, "", ""},
		"id of 64":               {func(r *req) { r.DeliberationId = strings.Repeat("a", 64) }, "", ""},
		"id of 65":               {func(r *req) { r.DeliberationId = strings.Repeat("a", 65) }, "deliberation_id", "1 to 64 characters"},
		"id with a dot":          {func(r *req) { r.DeliberationId = "a.b" }, "deliberation_id", "A-Z a-z 0-9 _ -"},
		"id with a wildcard":     {func(r *req) { r.DeliberationId = "*" }, "deliberation_id", "1 to 64 characters"},
		"id with a line end":     {func(r *req) { r.DeliberationId = "a\n" }, "deliberation_id", "1 to 64 characters"},
		"id with an umlaut":      {func(r *req) { r.DeliberationId = "ä" }, "deliberation_id", "1 to 64 characters"},
		"no agents":              {func(r *req) { r.Agents = nil }, "agents", "at least 1"},
		"256 agents":             {func(r *req) { r.Agents = agents(256) }, "", ""},
		"257 agents":             {func(r *req) { r.Agents = agents(257) }, "agents", "256"},
		"agent without id":       {func(r *req) { r.Agents[1].Id = "" }, "agents[1].id", "1 to 64 characters"},
		"agent id of 64":         {func(r *req) { r.Agents[0].Id = strings.Repeat("a", 64) }, "", ""},
		"agent id of 65":         {func(r *req) { r.Agents[0].Id = strings.Repeat("a", 65) }, "agents[0].id", "1 to 64 characters"},
		"agent id with a dot":    {func(r *req) { r.Agents[0].Id = "a.1" }, "", ""},
		"agent id with a slash":  {func(r *req) { r.Agents[0].Id = "a/1" }, "agents[0].id", "_ - ."},
		"agents of one id":       {func(r *req) { r.Agents[1].Id = "a-1" }, "agents", "unique"},
		"ids differ in case":     {func(r *req) { r.Agents[1].Id = "A-1" }, "", ""},
		"timeout -1":             {func(r *req) { r.Constraints.TimeoutSeconds = -1 }, "constraints.timeout_seconds", "greater than or equal to 0"},
		"timeout 0":              {func(r *req) { r.Constraints.TimeoutSeconds = 0 }, "", ""},
		"timeout 86400":          {func(r *req) { r.Constraints.TimeoutSeconds = 86400 }, "", ""},
		"timeout 86401":          {func(r *req) { r.Constraints.TimeoutSeconds = 86401 }, "constraints.timeout_seconds", "86400"},
		"retries -1":             {func(r *req) { r.Constraints.MaxRetries = proto.Int32(-1) }, "constraints.max_retries", "greater than or equal to 0"},
		"retries 0":              {func(r *req) { r.Constraints.MaxRetries = proto.Int32(0) }, "", ""},
		"retries 10":             {func(r *req) { r.Constraints.MaxRetries = proto.Int32(10) }, "", ""},
		"retries 11":             {func(r *req) { r.Constraints.MaxRetries = proto.Int32(11) }, "constraints.max_retries", "10"},
		"no constraints":         {func(r *req) { r.Constraints = nil }, "", ""},
		"declared pool":          {func(r *req) { r.Pool = "gpu" }, "", ""},
		"undeclared pool":        {func(r *req) { r.Pool = "tpu" }, "pool", "declared are: default, gpu"},
		"pool of capitals":       {func(r *req) { r.Pool = "GPU" }, "pool", "1 to 32 characters of a-z 0-9 -"},
		"pool of 33":             {func(r *req) { r.Pool = strings.Repeat("p", 33) }, "pool", "1 to 32 characters"},
		"pool with a dot":        {func(r *req) { r.Pool = "a.b" }, "pool", "1 to 32 characters"},
		"known placeholder":      {func(r *req) { r.Agents[0].PromptTemplate = "{lang}" }, "", ""},
		"unknown placeholder":    {func(r *req) { r.Agents[1].PromptTemplate = "{langs}" }, "agents[1].prompt_template", "{langs} is unknown"},
		"attribute of a value":   {func(r *req) { r.Agents[0].PromptTemplate = "{lang.x}" }, "agents[0].prompt_template", "{lang.x} is not a placeholder"},
		"url without http":       {func(r *req) { r.VllmUrl = "ftp://localhost" }, "vllm_url", "http or https"},
		"url of another host":    {func(r *req) { r.VllmUrl = "http://evil.example" }, "vllm_url", `"evil.example" is not allowed; ask the operator to add it to MODEL_HOSTS`},
		"url's trailing slashes": {func(r *req) { r.VllmUrl = "http://localhost/base//" }, "", ""},
		"url of slashes alone":   {func(r *req) { r.VllmUrl = "//" }, "vllm_url", ""},
		"fallbacks": {func(r *req) {
			r.Agents[0].Fallbacks = []*pb.ModelEndpoint{{VllmUrl: "http://localhost/v1"}, {Model: "m"}, {VllmUrl: "https://localhost", Model: "m"}}
		}, "", ""},
		"five fallbacks":        {func(r *req) { r.Agents[0].Fallbacks = make([]*pb.ModelEndpoint, 5) }, "agents[0].fallbacks", "4"},
		"fallback without both": {func(r *req) { r.Agents[1].Fallbacks = []*pb.ModelEndpoint{{Model: "m"}, {}} }, "agents[1].fallbacks[1]", "a vllm_url, a model, or both"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.Accept("id", request(test.change))
			checkRefusal(t, err, deliberation.Invalid, test.field, test.says)
		})
	}
}

// checkRefusal holds an error against a code, a field and a part of its text;
// no field means no error.
func checkRefusal(t *testing.T, err error, code deliberation.Code, field, says string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	coded, ok := errors.AsType[*deliberation.Error](err)
	if !ok {
		t.Fatalf("got %v, want a coded error", err)
	}
	if coded.Code != code || coded.Field != field || !strings.Contains(coded.Message, says) {
		t.Errorf("got %s at %q: %q\nwant %s at %q: …%s…", coded.Code, coded.Field, coded.Message, code, field, says)
	}
	if strings.HasPrefix(coded.Message, field+":") || strings.Count(coded.Error(), field+": "+field) > 0 {
		t.Errorf("%q names its field twice", coded.Error())
	}
}

func TestAcceptBoundsTheSize(t *testing.T) {
	t.Parallel()
	r := rules(t)
	fits := request()
	fits.TaskDescription = strings.Repeat("x", deliberation.MaxRequestBytes-proto.Size(fits)-10)
	fits.TaskDescription += strings.Repeat("x", deliberation.MaxRequestBytes-proto.Size(fits))
	if size := proto.Size(fits); size != deliberation.MaxRequestBytes {
		t.Fatalf("the test's request is %d bytes", size)
	}
	if _, err := r.Accept("id", fits); err != nil {
		t.Errorf("a request of 1 MiB: %v", err)
	}
	fits.TaskDescription += "x"
	_, err := r.Accept("id", fits)
	checkRefusal(t, err, deliberation.TooLarge, "request", "at most 1048576")
}

func TestAcceptNeedsModel(t *testing.T) {
	t.Parallel()
	bare := rules(t, func(s *deliberation.Settings) { s.Model, s.ModelURL = "", "" })
	at := func(r *pb.ExecuteDeliberationRequest) { r.VllmUrl = "http://localhost" }

	_, err := bare.Accept("id", request())
	checkRefusal(t, err, deliberation.Invalid, "vllm_url", "VLLM_URL names none")
	_, err = bare.Accept("id", request(at))
	checkRefusal(t, err, deliberation.Invalid, "agents[0].model", "VLLM_MODEL names one")
	_, err = bare.Accept("id", request(at, func(r *pb.ExecuteDeliberationRequest) { r.Agents[0].Model = "m" }))
	checkRefusal(t, err, deliberation.Invalid, "agents[1].model", "vllm_model")
	_, err = bare.Accept("id", request(at, func(r *pb.ExecuteDeliberationRequest) { r.VllmModel = "m" }))
	checkRefusal(t, err, "", "", "")
}

func TestAcceptResolvesDefaults(t *testing.T) {
	t.Parallel()
	r := rules(t, func(s *deliberation.Settings) { s.ModelURL = "http://vllm.svc:8000/" })

	sent := request()
	record, err := r.Accept("id", sent)
	if err != nil {
		t.Fatal(err)
	}
	want := &pb.DeliberationRequested{
		DeliberationId: "id", TaskId: "t-1", Request: request(), Pool: "default", TimeoutSeconds: 300,
		MaxRetries: 3, VllmUrl: "http://vllm.svc:8000", VllmModel: "qwen",
	}
	if !proto.Equal(record, want) {
		t.Errorf("got %v\nwant %v", record, want)
	}
	if !proto.Equal(sent, request()) {
		t.Error("the request was changed: it must remain as it was sent")
	}

	record, err = r.Accept("id", request(func(r *pb.ExecuteDeliberationRequest) {
		r.Pool, r.VllmUrl, r.VllmModel = "gpu", "https://a.models.example/base/", "llama"
		r.Constraints.TimeoutSeconds, r.Constraints.MaxRetries = 7, proto.Int32(0)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if record.GetPool() != "gpu" || record.GetVllmUrl() != "https://a.models.example/base" || record.GetVllmModel() != "llama" ||
		record.GetTimeoutSeconds() != 7 || record.GetMaxRetries() != 0 {
		t.Errorf("what the request names must be in force, 0 retries too: got %v", record)
	}
}

func TestCheckNamesTheFieldOfEveryRule(t *testing.T) {
	t.Parallel()
	r := rules(t)
	for name, test := range map[string]struct {
		message     proto.Message
		field, says string
	}{
		"status":         {&pb.GetDeliberationStatusRequest{DeliberationId: "a"}, "", ""},
		"status, no id":  {&pb.GetDeliberationStatusRequest{}, "deliberation_id", "1 to 64 characters"},
		"status, bad id": {&pb.GetDeliberationStatusRequest{DeliberationId: "a.>"}, "deliberation_id", "1 to 64 characters"},
		"cancel":         {&pb.CancelDeliberationRequest{DeliberationId: "a", Reason: strings.Repeat("r", 4096)}, "", ""},
		"cancel, no id":  {&pb.CancelDeliberationRequest{}, "deliberation_id", "1 to 64 characters"},
		"cancel, long":   {&pb.CancelDeliberationRequest{DeliberationId: "a", Reason: strings.Repeat("r", 4097)}, "reason", "4096"},
		"list":           {&pb.ListDeliberationsRequest{PageSize: 200, State: "queued", Pool: "default"}, "", ""},
		"list, all":      {&pb.ListDeliberationsRequest{}, "", ""},
		"list, state":    {&pb.ListDeliberationsRequest{State: "done"}, "state", "queued"},
		"list, pool":     {&pb.ListDeliberationsRequest{Pool: "*"}, "pool", "1 to 32 characters"},
		"list, 201":      {&pb.ListDeliberationsRequest{PageSize: 201}, "page_size", "200"},
		"list, -1":       {&pb.ListDeliberationsRequest{PageSize: -1}, "page_size", "0"},
		"list, token":    {&pb.ListDeliberationsRequest{PageToken: strings.Repeat("1", 65)}, "page_token", "64"},
		"watch, no id":   {&pb.WatchDeliberationRequest{}, "deliberation_id", "1 to 64 characters"},
		"anything else":  {&pb.GetStatusRequest{}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkRefusal(t, r.Check(test.message), deliberation.Invalid, test.field, test.says)
		})
	}
}

func BenchmarkAccept(b *testing.B) {
	r, sent := rules(b), request()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Accept("id", sent); err != nil {
			b.Fatal(err)
		}
	}
}
