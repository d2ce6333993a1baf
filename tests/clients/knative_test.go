package clients_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"rayexecutor/journal/journaltest"
)

// A trigger delivers events by Knative's dispatcher to the system, replies to
// one sink and dead letters to another. Every attempt is seen.
type trigger struct {
	in, reply, deadLetter *httptest.Server

	mu       sync.Mutex
	attempts []int // how the system answered each
	replies  []http.Header
	dead     []http.Header
	attempt  chan int // the same, as they come
}

func newTrigger(t *testing.T, h *house) *trigger {
	t.Helper()
	target, err := url.Parse(h.URL())
	if err != nil {
		t.Fatal(err)
	}
	trigger := &trigger{attempt: make(chan int, 100)}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			trigger.mu.Lock()
			defer trigger.mu.Unlock()
			trigger.attempts = append(trigger.attempts, r.StatusCode)
			trigger.attempt <- r.StatusCode
			return nil
		},
	}
	sink := func(got *[]http.Header) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			trigger.mu.Lock()
			defer trigger.mu.Unlock()
			*got = append(*got, r.Header)
		}
	}
	trigger.in = httptest.NewServer(proxy)
	trigger.reply = httptest.NewServer(sink(&trigger.replies))
	trigger.deadLetter = httptest.NewServer(sink(&trigger.dead))
	t.Cleanup(trigger.in.Close)
	t.Cleanup(trigger.reply.Close)
	t.Cleanup(trigger.deadLetter.Close)
	return trigger
}

// deliver sends an event with up to ten retries, and returns when the
// dispatcher is done with it.
func (trigger *trigger) deliver(t *testing.T, id, data string, spec map[string]any) {
	t.Helper()
	delivery, err := json.Marshal(map[string]any{
		"event": map[string]any{
			"specversion": "1.0", "id": id, "source": "/apis/v1/namespaces/default/pingsources/tests",
			"type": "ray_executor.v1.ExecuteDeliberationRequest", "datacontenttype": "application/json", "traceparent": traceParent,
		},
		"data": []byte(data), "sink": trigger.in.URL, "reply": trigger.reply.URL, "dead_letter": trigger.deadLetter.URL,
		"spec": spec,
	})
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Error string }
	run(t, &said, delivery, []string{"SYSTEM_NAMESPACE=knative-eventing"}, tool("knative-sender"))
	if said.Error != "" {
		t.Errorf("the dispatcher says: %s", said.Error)
	}
}

const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

var (
	inBinary = map[string]any{"retry": 10, "backoffPolicy": "linear", "backoffDelay": "PT0.2S", "format": "binary"}
	inJSON   = map[string]any{"retry": 10, "backoffPolicy": "exponential", "backoffDelay": "PT0.1S", "format": "json"}
)

func submission(id, description string) string {
	return `{"task_id": "t", "task_description": "` + description + `", "role": "DEV", "agents": [{"id": "a"}], "deliberation_id": "` + id + `"}`
}

// expectReply expects that the system took the event at the last attempt, after
// others that were answered so, and that its reply was delivered.
func (trigger *trigger) expectReply(t *testing.T, id string, before int) {
	t.Helper()
	trigger.mu.Lock()
	defer trigger.mu.Unlock()
	last := len(trigger.attempts) - 1
	if last < 0 || trigger.attempts[last] != http.StatusOK ||
		slices.ContainsFunc(trigger.attempts[:last], func(status int) bool { return status != before }) {
		t.Errorf("the attempts were answered %v", trigger.attempts)
	}
	if before != 0 && last == 0 {
		t.Error("there was no retry")
	}
	if len(trigger.dead) != 0 || len(trigger.replies) != 1 {
		t.Fatalf("replies: %v; dead letters: %v", trigger.replies, trigger.dead)
	}
	reply := trigger.replies[0]
	if reply.Get("Ce-Type") != "ray_executor.v1.ExecuteDeliberationResponse" || id != "" && reply.Get("Ce-Subject") != id || !strings.Contains(reply.Get("Ce-Traceparent"), "0af7651916cd43dd8448eb211c80319c") {
		t.Errorf("the reply is %v", reply)
	}
}

// expectDeadLetter expects one attempt, and the event in the dead-letter sink.
func (trigger *trigger) expectDeadLetter(t *testing.T, id string, status int) {
	t.Helper()
	trigger.mu.Lock()
	defer trigger.mu.Unlock()
	if !slices.Equal(trigger.attempts, []int{status}) {
		t.Errorf("the attempts were answered %v", trigger.attempts)
	}
	if len(trigger.dead) != 1 || len(trigger.replies) != 0 {
		t.Fatalf("replies: %v; dead letters: %v", trigger.replies, trigger.dead)
	}
	if letter := trigger.dead[0]; letter.Get("Ce-Id") != id || letter.Get("Ce-Knativeerrorcode") != strconv.Itoa(status) || letter.Get("Ce-Knativeerrordata") == "" {
		t.Errorf("the dead letter is %v", letter)
	}
}

func TestKnativeDelivers(t *testing.T) {
	t.Parallel()
	h := setup(t)
	for format, spec := range map[string]map[string]any{"binary": inBinary, "json": inJSON} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			trigger := newTrigger(t, h)
			trigger.deliver(t, "new-"+format, submission("delivered-"+format, "Décide."), spec)
			if format == "binary" {
				trigger.expectReply(t, "delivered-binary", 0)
			} else if len(trigger.replies) != 1 || trigger.replies[0].Get("Content-Type") != "application/cloudevents+json" {
				t.Errorf("the replies are %v", trigger.replies)
			}
		})
	}
}

// A redelivered event is the same deliberation, and so is its reply.
func TestKnativeDeliversTwice(t *testing.T) {
	t.Parallel()
	h := setup(t)
	trigger := newTrigger(t, h)
	for range 2 {
		trigger.deliver(t, "twice", submission("", "d"), inBinary)
	}
	if len(trigger.replies) != 2 || trigger.replies[0].Get("Ce-Id") != trigger.replies[1].Get("Ce-Id") ||
		trigger.replies[0].Get("Ce-Subject") != trigger.replies[1].Get("Ce-Subject") {
		t.Errorf("the replies are %v", trigger.replies)
	}
	if jobs := h.Health(t).GetStats().GetTotalDeliberations(); jobs != 1 {
		t.Errorf("there are %d deliberations", jobs)
	}
}

// What no retry mends is not retried.
func TestKnativeDeadLetters(t *testing.T) {
	t.Parallel()
	h := setup(t)
	newTrigger(t, h).deliver(t, "first", submission("taken", "d"), inBinary)
	for name, refused := range map[string]struct {
		data   string
		status int
	}{
		"malformed":          {`{"task_id": `, http.StatusBadRequest},
		"a field at fault":   {submission("a.b", "d"), http.StatusBadRequest},
		"another request":    {submission("taken", "another"), http.StatusUnprocessableEntity},
		"too large":          {submission("large", strings.Repeat("x", 1<<20)), http.StatusRequestEntityTooLarge},
		"much too large":     {submission("large", strings.Repeat("x", 9<<20)), http.StatusRequestEntityTooLarge},
		"not our message":    {`{"hello": "world"}`, http.StatusBadRequest},
		"no message, but []": {`[]`, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trigger := newTrigger(t, h)
			trigger.deliver(t, "refused", refused.data, inBinary)
			trigger.expectDeadLetter(t, "refused", refused.status)
		})
	}
}

// While NATS is away the event is retried, and taken once it is back.
func TestKnativeRetriesWithoutNATS(t *testing.T) {
	t.Parallel()
	h := setup(t)
	trigger := newTrigger(t, h)
	if err := h.StopNATS(); err != nil {
		t.Fatal(err)
	}
	retried(t, trigger, "waits", submission("waits", "d"), func() {
		if err := h.StartNATS(t.Context()); err != nil {
			t.Error(err)
		}
	})
	trigger.expectReply(t, "waits", http.StatusServiceUnavailable)
}

// While the journal is full the event is retried, and taken once there is room.
func TestKnativeRetriesAtALimit(t *testing.T) {
	t.Parallel()
	h := setup(t, "JOURNAL_MAX_BYTES=16777216")
	fill(t, h)
	trigger := newTrigger(t, h)
	large := submission("finds-room", strings.Repeat("x", 1_000_000))
	retried(t, trigger, "limited", large, func() {
		_, js := journaltest.Dial(t, h.NATSURL())
		stream, err := js.Stream(t.Context(), "DELIBERATIONS")
		if err == nil {
			err = stream.Purge(t.Context())
		}
		if err != nil {
			t.Error(err)
		}
	})
	trigger.expectReply(t, "finds-room", http.StatusTooManyRequests)
}

// retried delivers an event, and mends what was in its way after the first
// attempt.
func retried(t *testing.T, trigger *trigger, id, data string, mend func()) {
	t.Helper()
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		trigger.deliver(t, id, data, inBinary)
	}()
	<-trigger.attempt
	mend()
	<-delivered
}

func fill(t *testing.T, h *house) {
	t.Helper()
	for i := range 100 {
		body := strings.NewReader(submission("fills-"+strconv.Itoa(i), strings.Repeat("x", 1_000_000)))
		response, err := http.Post(h.URL()+"/v1/deliberations", "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode == http.StatusTooManyRequests {
			return
		}
	}
	t.Fatal("the journal never filled")
}
