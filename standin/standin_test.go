package standin_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"rayexecutor/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup serves a stand-in over real connections.
func setup(t testing.TB, o standin.Options) (*standin.Server, *httptest.Server) {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	s, err := standin.New(o)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		web.Close()
	})
	return s, web
}

const (
	slow = "slow" // a model that is made so
	path = "/v1/chat/completions"
	body = `{"model":"m1","messages":[
		{"role":"system","content":"You are one of several experts.\nYou are agent-1, an expert DEV."},
		{"role":"user","content":"Task:\nBuild a login page\nwith care"}]}`
	streamBody = `{"model":"m1","stream":true,"stream_options":{"include_usage":true},
		"messages":[{"role":"user","content":"Build a login page"}]}`
)

type reply struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

func do(t testing.TB, web *httptest.Server, method, path, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, web.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := web.Client().Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(data), err}
}

type completion struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Model   string `json:"model"`
	Choices []struct {
		Message      map[string]any `json:"message"`
		Delta        map[string]any `json:"delta"`
		FinishReason *string        `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Total      int `json:"total_tokens"`
	} `json:"usage"`
}

func (c completion) message(field string) any { return c.Choices[0].Message[field] }

func parse(t testing.TB, text string) completion {
	t.Helper()
	var c completion
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return c
}

func set(t testing.TB, s *standin.Server, model string, b standin.Behaviour) {
	t.Helper()
	if err := s.SetBehaviour(model, b); err != nil {
		t.Fatal(err)
	}
}

func wait(t testing.TB, s *standin.Server, wanted func(standin.Snapshot) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Wait(ctx, wanted); err != nil {
		t.Fatal(err)
	}
}

func TestChat(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	got := do(t, web, "POST", path, body)
	c := parse(t, got.body)
	if got.status != 200 || c.Object != "chat.completion" || c.Model != "m1" || !strings.HasPrefix(c.ID, "chatcmpl-") {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if c.Choices[0].FinishReason == nil || *c.Choices[0].FinishReason != "stop" || c.message("role") != "assistant" {
		t.Errorf("choice of %s", got.body)
	}
	text, _ := c.message("content").(string)
	if !strings.HasPrefix(text, "Proposal of m1 as DEV\n\n> Build a login page\n\nAnalysis:") {
		t.Errorf("content %q", text)
	}
	if u := c.Usage; u.Completion != len(strings.Fields(text)) || u.Prompt == 0 || u.Total != u.Prompt+u.Completion {
		t.Errorf("usage %+v", u)
	}
	again := parse(t, do(t, web, "POST", path, body).body)
	if again.message("content") != text || again.ID == c.ID {
		t.Errorf("the second answer: %+v", again)
	}
	r := s.Requests()[0]
	if r.Model != "m1" || !strings.HasPrefix(r.User, "Task:") || !strings.HasSuffix(r.System, "expert DEV.") ||
		r.Outcome != standin.Answered || r.Status != 200 || r.Ended.Before(r.Time) {
		t.Errorf("record %+v", r)
	}
}

// events reads a stream up to [DONE].
func events(t *testing.T, text string) []completion {
	t.Helper()
	var all []completion
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return all
		}
		all = append(all, parse(t, data))
	}
	t.Fatalf("no [DONE] in %s", text)
	return nil
}

func TestStream(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	set(t, s, "m1", standin.Behaviour{Content: "one two three", Reasoning: "because of {{.Last}}"})
	got := do(t, web, "POST", path, streamBody)
	all := events(t, got.body)
	var text, reasoning strings.Builder
	for _, c := range all[:len(all)-1] {
		if c.Object != "chat.completion.chunk" || len(c.Choices) != 1 || c.Usage != nil {
			t.Errorf("chunk %+v", c)
		}
		piece, _ := c.Choices[0].Delta["content"].(string)
		text.WriteString(piece)
		piece, _ = c.Choices[0].Delta["reasoning_content"].(string)
		reasoning.WriteString(piece)
	}
	if text.String() != "one two three" || reasoning.String() != "because of Build a login page" {
		t.Errorf("content %q, reasoning %q", text.String(), reasoning.String())
	}
	end := all[len(all)-2].Choices[0]
	if end.FinishReason == nil || *end.FinishReason != "stop" {
		t.Errorf("the last chunk: %+v", end)
	}
	if last := all[len(all)-1]; len(last.Choices) != 0 || last.Usage == nil || last.Usage.Completion != 9 {
		t.Errorf("the usage: %+v", last)
	}
	if kind := got.header.Get("Content-Type"); kind != "text/event-stream; charset=utf-8" {
		t.Errorf("content type %q", kind)
	}
	plain := events(t, do(t, web, "POST", path, `{"stream":true,"messages":[{"role":"user","content":"x"}]}`).body)
	if last := plain[len(plain)-1]; last.Usage != nil || last.Model != "standin" {
		t.Errorf("usage without being asked: %+v", last)
	}
}

func TestMaxTokens(t *testing.T) {
	t.Parallel()
	_, web := setup(t, standin.Options{Default: standin.Behaviour{Content: "one two three four"}})
	for _, field := range []string{"max_tokens", "max_completion_tokens"} {
		c := parse(t, do(t, web, "POST", path, `{"`+field+`":2,"messages":[{"role":"user","content":"x"}]}`).body)
		if c.message("content") != "one two" || *c.Choices[0].FinishReason != "length" || c.Usage.Completion != 2 {
			t.Errorf("%s: %+v", field, c)
		}
	}
}

func TestContentParts(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	do(t, web, "POST", path, `{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
		{"role":"assistant","content":null}]}`)
	if r := s.Requests()[0]; r.User != "ab" || r.Status != 200 {
		t.Errorf("got %+v", r)
	}
}

func TestAPIKey(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{APIKey: "sesame"})
	for _, path := range []string{path, "/v1/models", "/standin/requests", "/nowhere"} {
		for _, header := range [][]string{nil, {"Authorization", "Bearer other"}, {"Authorization", "sesame"}} {
			got := do(t, web, "POST", path, body, header...)
			if got.status != 401 || got.body != `{"error":"Unauthorized"}` {
				t.Errorf("%s %v: %d %s", path, header, got.status, got.body)
			}
		}
	}
	for _, open := range []string{"/health", "/metrics"} {
		if got := do(t, web, "GET", open, ""); got.status != 200 {
			t.Errorf("%s: %d", open, got.status)
		}
	}
	if got := do(t, web, "POST", path, body, "Authorization", "Bearer sesame"); got.status != 200 {
		t.Errorf("with the key: %d %s", got.status, got.body)
	}
	if n := s.Snapshot().Statuses; n[401] != 3 || n[200] != 1 {
		t.Errorf("statuses %v", n)
	}
}

func TestModels(t *testing.T) {
	t.Parallel()
	_, web := setup(t, standin.Options{Models: []string{"m1", "org/m2"}})
	got := do(t, web, "POST", path, strings.Replace(body, "m1", "m3", 1))
	want := `{"error":{"message":"The model ` + "`m3`" +
		` does not exist. Valid aliases: m1, org/m2.","type":"NotFoundError","param":"model","code":404}}`
	if got.status != 404 || got.body != want {
		t.Errorf("got %d %s", got.status, got.body)
	}
	list := do(t, web, "GET", "/v1/models", "")
	if !strings.Contains(list.body, `"id":"m1"`) || !strings.Contains(list.body, `"id":"org/m2"`) {
		t.Errorf("models %s", list.body)
	}
	if c := parse(t, do(t, web, "POST", path, `{"messages":[{"role":"user","content":"x"}]}`).body); c.Model != "m1" {
		t.Errorf("no model named: %+v", c)
	}
	_, open := setup(t, standin.Options{})
	do(t, open, "POST", path, body)
	if list := do(t, open, "GET", "/v1/models", ""); !strings.Contains(list.body, `"id":"m1"`) {
		t.Errorf("models %s", list.body)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	const messages = `"messages":[{"role":"user","content":"x"}]`
	tests := map[string]struct{ body, want string }{
		"no JSON":        {`{`, `"type":"Bad Request"`},
		"no object":      {`[]`, `"param":"body"`},
		"no messages":    {`{"model":"m"}`, `"param":"body.messages"`},
		"empty messages": {`{"messages":[]}`, `empty conversation`},
		"wrong messages": {`{"messages":"x"}`, `"param":"body.messages"`},
		"no role":        {`{"messages":[{"content":"x"}]}`, `messages.0.role`},
		"wrong content":  {`{"messages":[{"role":"user","content":7}]}`, `want a string or a list of parts`},
		"wrong part":     {`{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, `only text`},
		"no part":        {`{"messages":[{"role":"user","content":["x"]}]}`, `want parts`},
		"wrong model":    {`{"model":5,` + messages + `}`, `"param":"body.model"`},
		"temperature":    {`{"temperature":-1,` + messages + `}`, `"param":"temperature"`},
		"top_p":          {`{"top_p":2,` + messages + `}`, `"param":"top_p"`},
		"max_tokens":     {`{"max_tokens":0,` + messages + `}`, `"param":"max_tokens"`},
		"max_completion": {`{"max_completion_tokens":0,` + messages + `}`, `"param":"max_completion_tokens"`},
		"n":              {`{"n":0,` + messages + `}`, `"param":"n"`},
		"n of two":       {`{"n":2,` + messages + `}`, `one choice`},
		"stream_options": {`{"stream_options":{},` + messages + `}`, `stream=True`},
	}
	for name, test := range tests {
		got := do(t, web, "POST", path, test.body)
		if got.status != 400 || !strings.Contains(got.body, test.want) || !strings.HasPrefix(got.body, `{"error":{"message":`) {
			t.Errorf("%s: %d %s, want %s", name, got.status, got.body, test.want)
		}
	}
	if got := do(t, web, "POST", path, body, "Content-Type", "text/plain"); got.status != 400 {
		t.Errorf("text/plain: %d %s", got.status, got.body)
	}
	if n := s.Snapshot(); n.Statuses[400] != uint64(len(tests))+1 || n.Running != 0 {
		t.Errorf("counts %v", n)
	}
}

func TestUnknownRoutes(t *testing.T) {
	t.Parallel()
	_, web := setup(t, standin.Options{})
	if got := do(t, web, "GET", "/nowhere", ""); got.status != 404 || got.body != `{"detail":"Not Found"}` {
		t.Errorf("got %d %s", got.status, got.body)
	}
	got := do(t, web, "GET", path, "")
	if got.status != 405 || got.body != `{"detail":"Method Not Allowed"}` || got.header.Get("Allow") != "POST" {
		t.Errorf("got %d %s %v", got.status, got.body, got.header)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{Behaviours: map[string]standin.Behaviour{slow: {Hang: true}}})
	ctx, cancel := context.WithCancel(t.Context())
	gone := background(ctx, web, strings.Replace(body, "m1", slow, 1))
	wait(t, s, func(n standin.Snapshot) bool { return n.Of(slow).Running == 1 })
	do(t, web, "POST", path, body)
	do(t, web, "POST", path, `{"model":"m1","max_tokens":1,"messages":[{"role":"user","content":"x"}]}`)
	got := do(t, web, "GET", "/metrics", "").body
	for _, want := range []string{
		`vllm:num_requests_running{engine="0",model_name="slow"} 1`,
		`vllm:num_requests_running{engine="0",model_name="m1"} 0`,
		`vllm:num_requests_waiting{engine="0",model_name="slow"} 0`,
		`vllm:request_success_total{engine="0",finished_reason="stop",model_name="m1"} 1`,
		`vllm:request_success_total{engine="0",finished_reason="length",model_name="m1"} 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	cancel()
	<-gone
	wait(t, s, func(n standin.Snapshot) bool { return n.Running == 0 && n.ClientClosed == 1 })
}

// background sends a request; the channel is closed when it has ended.
func background(ctx context.Context, web *httptest.Server, body string) <-chan error {
	ended := make(chan error, 1)
	go func() {
		defer close(ended)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, web.URL+path, strings.NewReader(body))
		if err != nil {
			ended <- err
			return
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := web.Client().Do(req)
		if err != nil {
			ended <- err
			return
		}
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		ended <- err
	}()
	return ended
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options standin.Options
		want    string
	}{
		"address":     {standin.Options{Address: "8000"}, "want host:port"},
		"record":      {standin.Options{Record: -1}, "record: -1"},
		"record_text": {standin.Options{RecordText: -1}, "record_text"},
		"grace":       {standin.Options{Grace: -1}, "grace"},
		"models":      {standin.Options{Models: []string{""}}, "models[0]"},
		"unserved":    {standin.Options{Models: []string{"a"}, Behaviours: map[string]standin.Behaviour{"b": {}}}, `"b" is not served`},
		"default":     {standin.Options{Default: standin.Behaviour{Delay: -1}}, "default: delay"},
		"behaviour":   {standin.Options{Behaviours: map[string]standin.Behaviour{"b": {Status: 1}}}, `behaviours["b"]: status`},
	} {
		_, err := standin.New(test.options)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
	}
}
