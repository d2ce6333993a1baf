package lambda_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/google/go-cmp/cmp"

	"rayexecutor/lambda"
)

// fake is a Function that a test makes up.
type fake struct {
	handle func(w http.ResponseWriter, r *http.Request)
	wake   func(ctx context.Context, idle time.Duration) error
}

func (f fake) Handle(w http.ResponseWriter, r *http.Request) { f.handle(w, r) }

func (f fake) Wake(ctx context.Context, idle time.Duration) error {
	if f.wake == nil {
		return nil
	}
	return f.wake(ctx, idle)
}

// host is a Host of a fake, whose answers come as JSON.
type host struct{ *lambda.Host }

func newHost(f fake) host { return host{lambda.NewHost(f, slog.New(slog.DiscardHandler))} }

func (h host) invoke(t *testing.T, payload string, into any) error {
	t.Helper()
	answer, err := h.Invoke(t.Context(), json.RawMessage(payload))
	if err != nil {
		return err
	}
	data, err := json.Marshal(answer)
	if err != nil {
		t.Fatal(err)
	}
	return json.Unmarshal(data, into)
}

// seen is what the function is asked.
type seen struct {
	Method, Target, Path, Host, Body, Remote string
	Header                                   http.Header
}

func TestRequest(t *testing.T) {
	t.Parallel()
	const http2 = `"http": {"method": "GET", "path": "/x", "sourceIp": "192.0.2.1"}`
	for name, test := range map[string]struct {
		payload string
		want    seen
	}{
		"plain": {
			`{"version": "2.0", "rawPath": "/v1/a", "rawQueryString": "p=1&p=2&q=a%20b", "requestContext": {"domainName": "d", ` + http2 + `}}`,
			seen{Method: "GET", Target: "/v1/a?p=1&p=2&q=a%20b", Path: "/v1/a", Host: "d", Header: http.Header{}},
		},
		"stage": {
			`{"version": "2.0", "rawPath": "/prod/v1/a/", "requestContext": {"stage": "prod", ` + http2 + `}}`,
			seen{Method: "GET", Target: "/v1/a/", Path: "/v1/a/", Header: http.Header{}},
		},
		"stage alone": {
			`{"version": "2.0", "rawPath": "/prod", "requestContext": {"stage": "prod", ` + http2 + `}}`,
			seen{Method: "GET", Target: "/", Path: "/", Header: http.Header{}},
		},
		"a path that starts like the stage": {
			`{"version": "2.0", "rawPath": "/production", "requestContext": {"stage": "prod", ` + http2 + `}}`,
			seen{Method: "GET", Target: "/production", Path: "/production", Header: http.Header{}},
		},
		"default stage": {
			`{"version": "2.0", "rawPath": "/$default/a", "requestContext": {"stage": "$default", ` + http2 + `}}`,
			seen{Method: "GET", Target: "/$default/a", Path: "/$default/a", Header: http.Header{}},
		},
		"an escaped path": {
			`{"version": "2.0", "rawPath": "/v1/a%2Fb%20c", "requestContext": {` + http2 + `}}`,
			seen{Method: "GET", Target: "/v1/a%2Fb%20c", Path: "/v1/a/b c", Header: http.Header{}},
		},
		"a path that was decoded before": {
			`{"version": "2.0", "rawPath": "/v1/a b%", "requestContext": {` + http2 + `}}`,
			seen{Method: "GET", Target: "/v1/a%20b%25", Path: "/v1/a b%", Header: http.Header{}},
		},
		"headers and cookies": {
			`{"version": "2.0", "rawPath": "", "headers": {"host": "h", "ce-subject": "a, b", "accept": "x,y"}, "cookies": ["a=1", "b=2"], "requestContext": {"domainName": "d", ` + http2 + `}}`,
			seen{
				Method: "GET", Target: "/", Path: "/", Host: "h",
				Header: http.Header{"Ce-Subject": {"a, b"}, "Accept": {"x,y"}, "Cookie": {"a=1; b=2"}},
			},
		},
		"base64": {
			`{"version": "2.0", "rawPath": "/", "body": "AAH/", "isBase64Encoded": true, "requestContext": {` + http2 + `}}`,
			seen{Method: "GET", Target: "/", Path: "/", Body: "\x00\x01\xff", Header: http.Header{}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.want.Remote = "192.0.2.1"
			var got seen
			h := newHost(fake{handle: func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = seen{r.Method, r.RequestURI, r.URL.Path, r.Host, string(body), r.RemoteAddr, r.Header}
			}})
			var response events.LambdaFunctionURLResponse
			if err := h.invoke(t, test.payload, &response); err != nil || response.StatusCode != http.StatusOK {
				t.Errorf("%v: %+v", err, response)
			}
			if difference := cmp.Diff(test.want, got); difference != "" {
				t.Error(difference)
			}
		})
	}
}

func TestResponse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header http.Header
		body   string
		text   bool
	}{
		"JSON":           {http.Header{"Content-Type": {"application/json; charset=utf-8"}}, `{"a": "ü"}`, true},
		"problem":        {http.Header{"Content-Type": {"application/problem+json"}}, `{}`, true},
		"metrics":        {http.Header{"Content-Type": {"text/plain"}}, "a 1\n", true},
		"protobuf":       {http.Header{"Content-Type": {"application/protobuf"}}, "\x0a\x01a", false},
		"compressed":     {http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}, "\x1f\x8b", false},
		"text that lies": {http.Header{"Content-Type": {"text/plain"}}, "\xff", false},
		"untold":         {http.Header{}, "?", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(fake{handle: func(w http.ResponseWriter, _ *http.Request) {
				for name, values := range test.header {
					w.Header()[name] = values
				}
				w.Header().Add("Set-Cookie", "a=1")
				w.Header().Add("Set-Cookie", "b=2")
				w.WriteHeader(http.StatusEarlyHints)
				w.WriteHeader(http.StatusTeapot)
				w.(http.Flusher).Flush()
				w.Header().Set("Too", "late")
				w.WriteHeader(http.StatusOK)
				_, _ = io.WriteString(w, test.body)
			}})
			var response events.LambdaFunctionURLResponse
			if err := h.invoke(t, `{"version": "2.0", "rawPath": "/", "requestContext": {"http": {"method": "GET"}}}`, &response); err != nil {
				t.Fatal(err)
			}
			body := response.Body
			if response.IsBase64Encoded {
				decoded, err := base64.StdEncoding.DecodeString(body)
				if err != nil {
					t.Fatal(err)
				}
				body = string(decoded)
			}
			if response.StatusCode != http.StatusTeapot || body != test.body || response.IsBase64Encoded == test.text ||
				response.Headers["Too"] != "" || response.Headers["Content-Type"] != test.header.Get("Content-Type") ||
				strings.Join(response.Cookies, "; ") != "a=1; b=2" {
				t.Errorf("%+v", response)
			}
		})
	}
}

// TestBatch answers events with the status that each has for its id.
func TestBatch(t *testing.T) {
	t.Parallel()
	h := newHost(fake{handle: func(w http.ResponseWriter, r *http.Request) {
		var event struct {
			ID     string `json:"id"`
			Status int    `json:"data"`
		}
		_ = json.NewDecoder(r.Body).Decode(&event)
		w.WriteHeader(event.Status)
	}})
	message := func(queue, group, id string, status int) events.SQSMessage {
		body := fmt.Sprintf(`{"specversion": "1.0", "id": %q, "data": %d}`, id, status)
		return events.SQSMessage{
			MessageId: id, Body: body, EventSource: "aws:sqs", EventSourceARN: "arn:aws:sqs:r:1:" + queue,
			Attributes: map[string]string{"MessageGroupId": group},
		}
	}
	for name, test := range map[string]struct {
		messages []events.SQSMessage
		failed   string
	}{
		"all good":   {[]events.SQSMessage{message("q", "", "1", 200), message("q", "", "2", 200)}, ""},
		"each fault": {[]events.SQSMessage{message("q", "", "1", 400), message("q", "", "2", 422), message("q", "", "3", 429), message("q", "", "4", 503), message("q", "", "5", 200)}, "1 2 3 4"},
		"a queue with order preserves it within the group": {
			[]events.SQSMessage{message("q.fifo", "a", "1", 503), message("q.fifo", "b", "2", 200), message("q.fifo", "a", "3", 200)}, "1 3",
		},
		"groups without order are for fairness": {
			[]events.SQSMessage{message("q", "a", "1", 503), message("q", "a", "2", 200)}, "1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			payload, _ := json.Marshal(events.SQSEvent{Records: test.messages})
			answer, err := h.Invoke(t.Context(), payload)
			if err != nil {
				t.Fatal(err)
			}
			var failed []string
			for _, failure := range answer.(events.SQSEventResponse).BatchItemFailures {
				failed = append(failed, failure.ItemIdentifier)
			}
			if got := strings.Join(failed, " "); got != test.failed {
				t.Errorf("failed: %q, want %q", got, test.failed)
			}
			// null is what SQS takes for a failure of all.
			if data, _ := json.Marshal(answer); strings.Contains(string(data), "null") {
				t.Errorf("it answers %s", data)
			}
		})
	}
}

// TestEvents shows what the function sees of an EventBridge event.
func TestEvents(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ payload, want string }{
		"the detail is the data": {
			`{"version": "0", "id": "i", "detail-type": "T", "source": "s", "time": "2026-01-01T00:00:00Z", "detail": {"a": 1}}`,
			`{"data":{"a": 1},"datacontenttype":"application/json","id":"i","source":"s","specversion":"1.0","time":"2026-01-01T00:00:00Z","type":"T"}`,
		},
		"the detail is a CloudEvent": {
			`{"version": "0", "id": "i", "detail-type": "T", "source": "s", "detail": {"specversion": "1.0", "id": "own", "traceparent": "00"}}`,
			`{"specversion": "1.0", "id": "own", "traceparent": "00"}`,
		},
		"a bare CloudEvent": {`{"specversion": "1.0", "id": "own"}`, `{"specversion": "1.0", "id": "own"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got string
			h := newHost(fake{handle: func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(body)
				_, _ = io.WriteString(w, `{"reply": true}`)
			}})
			var reply map[string]bool
			if err := h.invoke(t, test.payload, &reply); err != nil || !reply["reply"] {
				t.Errorf("%v: %v", err, reply)
			}
			if want := "POST / application/cloudevents+json " + test.want; strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
				t.Errorf("it sees %s, want %s", got, want)
			}
		})
	}
}

// TestWaking waits for the function no longer than is worth it, and keeps time
// to say so.
func TestWaking(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var idle []time.Duration
		h := newHost(fake{
			wake: func(ctx context.Context, since time.Duration) error {
				idle = append(idle, since)
				<-ctx.Done()
				return ctx.Err()
			},
			handle: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		})
		ask := func(path string, limit time.Duration) time.Duration {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			started := time.Now()
			payload := `{"version": "2.0", "rawPath": "` + path + `", "requestContext": {"http": {"method": "GET"}}}`
			if _, err := h.Invoke(ctx, json.RawMessage(payload)); err != nil || ctx.Err() != nil {
				t.Errorf("%s: %v, %v", path, err, ctx.Err())
			}
			return time.Since(started)
		}
		if took := ask("/", time.Minute); took != 5*time.Second {
			t.Errorf("with much time it waits %v", took)
		}
		time.Sleep(time.Hour)
		if took := ask("/", 3*time.Second); took != 2500*time.Millisecond {
			t.Errorf("with 3 s it waits %v", took)
		}
		for _, path := range []string{"/health/liveness", "/metrics"} {
			if took := ask(path, time.Minute); took != 0 {
				t.Errorf("%s waits %v", path, took)
			}
		}
		if want := []time.Duration{0, time.Hour}; !cmp.Equal(idle, want) {
			t.Errorf("it says that it was idle %v, want %v", idle, want)
		}
	})
}

// FuzzInvoke hands over anything: it is answered or refused, and never ends
// the process.
func FuzzInvoke(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"version": "2.0", "rawPath": "%zz", "requestContext": {"stage": "a", "http": {"method": "GE T"}}}`,
		`{"version": "2.0", "body": "!", "isBase64Encoded": true, "requestContext": {"http": {"method": "POST"}}}`,
		`{"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": "{\"detail-type\": \"x\", \"detail\": 1}"}]}`,
		`{"detail-type": "x", "detail": null}`, `{"specversion": "1.0"}`, `{"Records": [{"messageId": 1}]}`,
	} {
		f.Add(seed)
	}
	h := newHost(fake{handle: func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }})
	f.Fuzz(func(t *testing.T, payload string) {
		answer, err := h.Invoke(t.Context(), json.RawMessage(payload))
		if err == nil && answer == nil {
			t.Error("neither answered nor refused")
		}
	})
}
