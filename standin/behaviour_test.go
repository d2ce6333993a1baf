package standin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"rayexecutor/standin"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	for name, test := range map[string]struct {
		behaviour standin.Behaviour
		check     func(reply) bool
	}{
		"status": {standin.Behaviour{Status: 429, RetryAfter: "7"}, func(r reply) bool {
			return r.status == 429 && r.header.Get("Retry-After") == "7" && strings.Contains(r.body, `"code":429`)
		}},
		"status and body": {standin.Behaviour{Status: 500, Body: "<html>"}, func(r reply) bool {
			return r.status == 500 && r.body == "<html>"
		}},
		"fine, but another body": {standin.Behaviour{Status: 200, Body: `{}`}, func(r reply) bool {
			return r.status == 200 && r.body == `{}`
		}},
		"empty": {standin.Behaviour{Empty: true}, func(r reply) bool {
			return r.status == 200 && strings.Contains(r.body, `"content":""`)
		}},
		"malformed": {standin.Behaviour{Malformed: true}, func(r reply) bool {
			return r.status == 200 && r.err == nil && !json.Valid([]byte(r.body))
		}},
		"cut": {standin.Behaviour{Cut: true}, func(r reply) bool {
			return r.status == 200 && errors.Is(r.err, io.ErrUnexpectedEOF) && r.body != ""
		}},
		"reasoning": {standin.Behaviour{Reasoning: "why {{.N}}", ReasoningField: standin.Reasoning}, func(r reply) bool {
			return strings.Contains(r.body, `"reasoning":"why 1"`)
		}},
		"template": {standin.Behaviour{Content: "{{.Model}}|{{.Role}}|{{.N}}|{{.Last}}"}, func(r reply) bool {
			return strings.Contains(r.body, `"m1|DEV|1|Task:\nBuild a login page\nwith care"`)
		}},
		"finish": {standin.Behaviour{FinishReason: "content_filter"}, func(r reply) bool {
			return strings.Contains(r.body, `"finish_reason":"content_filter"`)
		}},
	} {
		set(t, s, "m1", test.behaviour)
		if got := do(t, web, "POST", path, body); !test.check(got) {
			t.Errorf("%s: %d %v %s %v", name, got.status, got.header, got.body, got.err)
		}
	}
	set(t, s, "m1", standin.Behaviour{Cut: true})
	if got := do(t, web, "POST", path, streamBody); !errors.Is(got.err, io.ErrUnexpectedEOF) || !strings.Contains(got.body, "data: ") {
		t.Errorf("cut stream: %q %v", got.body, got.err)
	}
	if n := s.Snapshot(); n.Cut != 2 || n.Running != 0 {
		t.Errorf("counts %v", n)
	}
}

func TestMaxQueued(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	set(t, s, "m1", standin.Behaviour{Hang: true, MaxQueued: 1})
	first := make(chan reply, 1)
	go func() { first <- do(t, web, "POST", path, body) }()
	if err := s.Wait(t.Context(), func(n standin.Snapshot) bool { return n.Of("m1").Running == 1 }); err != nil {
		t.Fatal(err)
	}
	got := do(t, web, "POST", path, body)
	if got.status != 503 || !strings.Contains(got.body, `"type":"Service Unavailable"`) {
		t.Errorf("the second: %d %s", got.status, got.body)
	}
	if other := do(t, web, "POST", path, strings.Replace(body, "m1", "m2", 1)); other.status != 200 {
		t.Errorf("another model: %d %s", other.status, other.body)
	}
	s.Close()
	<-first
}

func TestFailFirst(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{Default: standin.Behaviour{FailFirst: 2}})
	got := make([]int, 0, 4)
	for range 3 {
		got = append(got, do(t, web, "POST", path, body).status)
	}
	got = append(got, do(t, web, "POST", path, strings.Replace(body, "m1", "m2", 1)).status)
	if got[0] != 503 || got[1] != 503 || got[2] != 200 || got[3] != 503 {
		t.Errorf("statuses %v", got)
	}
	set(t, s, "m1", standin.Behaviour{FailFirst: 1, Empty: true, Content: "said"})
	first, second := do(t, web, "POST", path, body), do(t, web, "POST", path, body)
	if parse(t, first.body).message("content") != "" || parse(t, second.body).message("content") != "said" {
		t.Errorf("got %s, then %s", first.body, second.body)
	}
}

func TestClientGoes(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{Behaviours: map[string]standin.Behaviour{
		"hang": {Hang: true},
		slow:   {Delay: time.Hour},
	}})
	for _, request := range []string{
		strings.Replace(body, "m1", "hang", 1),
		strings.Replace(body, "m1", slow, 1),
		strings.Replace(streamBody, "m1", slow, 1),
	} {
		s.Reset()
		ctx, cancel := context.WithCancel(t.Context())
		ended := background(ctx, web, request)
		wait(t, s, func(n standin.Snapshot) bool { return n.Running == 1 })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		wait(t, s, func(n standin.Snapshot) bool { return n.ClientClosed == 1 && n.Running == 0 && n.MaxRunning == 1 })
		if r := s.Requests()[0]; r.Outcome != standin.ClientClosed || r.Ended.IsZero() || r.Status != 0 {
			t.Errorf("record %+v", r)
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{Default: standin.Behaviour{Hang: true}})
	ended := background(t.Context(), web, body)
	wait(t, s, func(n standin.Snapshot) bool { return n.Running == 1 })
	s.Close()
	s.Close()
	if err := <-ended; err == nil {
		t.Error("the hanging request was answered")
	}
	wait(t, s, func(n standin.Snapshot) bool { return n.ServerClosed == 1 && n.Running == 0 })
	if got := do(t, web, "POST", path, body); got.status != 503 {
		t.Errorf("after the close: %d %s", got.status, got.body)
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	const route = "/standin/behaviours/"
	got := do(t, web, "PUT", route+"org/m1", `{"delay":"1.5s","status":429,"retry_after":"1","fail_first":3}`)
	want := standin.Behaviour{Delay: 1500 * time.Millisecond, Status: 429, RetryAfter: "1", FailFirst: 3}
	b := s.Behaviour("org/m1")
	b.ReasoningField, b.FinishReason = "", ""
	if got.status != 200 || b != want {
		t.Errorf("got %d %s, set %+v", got.status, got.body, b)
	}
	do(t, web, "PUT", route, `{"empty":true}`)
	if !s.Behaviour("other").Empty || s.Behaviour("org/m1").Empty {
		t.Error("the default behaviour is not set, or for all")
	}
	if got := do(t, web, "GET", route+"other", ""); !strings.Contains(got.body, `"empty":true`) {
		t.Errorf("got %s", got.body)
	}
	do(t, web, "DELETE", route, "")
	if got := do(t, web, "DELETE", route+"org/m1", ""); got.status != 204 || s.Behaviour("org/m1").Empty || s.Behaviour("org/m1").Status != 0 {
		t.Errorf("after DELETE: %d %+v", got.status, s.Behaviour("org/m1"))
	}
	for _, bad := range []string{
		`{`, `{"dely":"1s"}`, `{"delay":"1"}`, `{"cut":true,"hang":true}`, `{"content":"{{.Nix}}"}`, `{"content":"{{"}`,
		`{"reasoning_field":"thoughts"}`, `{"fail_first":-1}`, `{"body":"x"}`, `{"status":500,"retry_after":"a\nb"}`, `{"reasoning":"{{"}`,
	} {
		if got := do(t, web, "PUT", route+"m", bad); got.status != http.StatusBadRequest || !strings.HasPrefix(got.body, `{"error":"`) {
			t.Errorf("%s: %d %s", bad, got.status, got.body)
		}
	}
}

func TestRecordOverHTTP(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{Record: 3, RecordText: 4})
	for _, model := range []string{"a", "b", "a", "a"} {
		do(t, web, "POST", path, `{"model":"`+model+`","messages":[{"role":"user","content":"grüße"}]}`)
	}
	var got struct {
		standin.Snapshot

		Requests []standin.Request `json:"requests"`
	}
	read := func(query string) {
		t.Helper()
		got.Requests = nil
		if err := json.Unmarshal([]byte(do(t, web, "GET", "/standin/requests"+query, "").body), &got); err != nil {
			t.Fatal(err)
		}
	}
	read("")
	if got.Total != 4 || got.Of("a").Total != 3 || got.Statuses[200] != 4 || len(got.Requests) != 3 || got.Requests[0].ID != 2 {
		t.Errorf("got %+v", got)
	}
	if r := got.Requests[0]; r.User != "grü" || !r.Truncated {
		t.Errorf("got %+v", r)
	}
	if read("?model=a&limit=1"); len(got.Requests) != 1 || got.Requests[0].ID != 4 {
		t.Errorf("got %+v", got.Requests)
	}
	if bad := do(t, web, "GET", "/standin/requests?limit=x", ""); bad.status != 400 {
		t.Errorf("got %d", bad.status)
	}
	do(t, web, "DELETE", "/standin/requests", "")
	if n := s.Snapshot(); n.Total != 0 || len(s.Requests()) != 0 || len(n.Models) != 0 {
		t.Errorf("after DELETE: %+v", n)
	}
}

func TestResetWhileRunning(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{Default: standin.Behaviour{Hang: true}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := background(ctx, web, body)
	wait(t, s, func(n standin.Snapshot) bool { return n.Of("m1").Running == 1 })
	s.Reset()
	if n := s.Snapshot(); n.Total != 0 || n.Running != 1 || n.Of("m1").Running != 1 {
		t.Errorf("after the reset: %+v", n)
	}
	cancel()
	<-ended
	wait(t, s, func(n standin.Snapshot) bool { return n.Running == 0 && n.Of("m1").Running == 0 })
	if n := s.Snapshot(); n.ClientClosed != 0 || len(s.Requests()) != 0 {
		t.Errorf("at the end: %+v", n)
	}
}

func TestWaitGivesUp(t *testing.T) {
	t.Parallel()
	s, _ := setup(t, standin.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Wait(ctx, func(n standin.Snapshot) bool { return n.Total == 1 })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "total=0") {
		t.Errorf("got %v", err)
	}
}

func TestManyModels(t *testing.T) {
	t.Parallel()
	s, web := setup(t, standin.Options{})
	for i := range 1_050 {
		name := strings.Repeat("x", i/100+1) + string(rune('a'+i%10)) + string(rune('a'+i/10%10))
		do(t, web, "POST", path, strings.Replace(body, "m1", name, 1))
	}
	if n := s.Snapshot(); n.Total != 1_050 || len(n.Models) > 1_001 {
		t.Errorf("%d requests, %d models", n.Total, len(n.Models))
	}
}
