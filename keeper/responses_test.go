package keeper_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	pb "rayexecutor/proto/ray_executor/v1"
)

func responding(layout *journal.Layout) { layout.AgentResponses = true }

// hearAgents subscribes as the Orchestrator of the Python service does.
func (w world) hearAgents(t *testing.T) <-chan *nats.Msg {
	t.Helper()
	heard := make(chan *nats.Msg, 1000)
	if _, err := w.conn.ChanSubscribe("agent.response.*", heard); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return heard
}

// keepResponding runs a keeper that tells of each agent.
func (w world) keepResponding(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	j := journaltest.Undeployed(t, journal.Settings{URL: w.server.URL, Wait: time.Second})
	go func() { ended <- keeper.New(j, quiet(), keeper.AgentResponses()).Run(ctx) }()
	stop = func() {
		cancel()
		if err := next(t, ended); err != nil {
			t.Errorf("the keeper ended with %v", err)
		}
	}
	return stop
}

// told is a response as a consumer reads it.
type told struct {
	EventType      string `json:"event_type"`
	IdempotencyKey string `json:"idempotency_key"`
	CorrelationID  string `json:"correlation_id"`
	Payload        struct {
		TaskID    string  `json:"task_id"`
		AgentID   string  `json:"agent_id"`
		Role      string  `json:"role"`
		Error     *string `json:"error"`
		NumAgents int     `json:"num_agents"`
		ResultRef string  `json:"result_ref"`
		Proposal  *struct {
			Content string `json:"content"`
		} `json:"proposal"`
		Constraints struct {
			Timeout int `json:"timeout"`
		} `json:"constraints"`
	} `json:"payload"`
}

func readResponse(t *testing.T, message *nats.Msg) told {
	t.Helper()
	var response told
	if err := json.Unmarshal(message.Data, &response); err != nil {
		t.Fatalf("%s: %v", message.Data, err)
	}
	key := sha256.Sum256([]byte(message.Subject + ":" + response.CorrelationID + ":" + response.Payload.AgentID))
	if want := hex.EncodeToString(key[:]); response.IdempotencyKey != want || message.Header.Get("Nats-Msg-Id") != want {
		t.Errorf("key %s, id %s, want %s", response.IdempotencyKey, message.Header.Get("Nats-Msg-Id"), want)
	}
	if response.EventType != message.Subject {
		t.Errorf("%s on %s", response.EventType, message.Subject)
	}
	return response
}

func TestAgentResponses(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.end(t, "before", journaltest.Result(0, "yes"))
	w.deploy(t, responding)
	heard := w.hearAgents(t)
	defer w.keepResponding(t)()
	w.submit(t, "d1", 3, 77)
	w.end(t, "d1", journaltest.Result(0, "yes"), journaltest.Result(1, ""))

	yes := readResponse(t, next(t, heard))
	if yes.EventType != "agent.response.completed" || yes.CorrelationID != "d1" || yes.Payload.AgentID != "a0" || yes.Payload.Proposal.Content != "yes" ||
		yes.Payload.TaskID != "task-d1" || yes.Payload.Role != "architect" || yes.Payload.NumAgents != 3 || yes.Payload.Constraints.Timeout != 77 {
		t.Errorf("heard %+v", yes)
	}
	no := readResponse(t, next(t, heard))
	if no.EventType != "agent.response.failed" || no.Payload.AgentID != "a1" || no.Payload.Proposal != nil || *no.Payload.Error != "no answer" {
		t.Errorf("heard %+v", no)
	}
	if kept := journaltest.Messages(t, w.server.URL, journal.Responses, "agent.response.>"); len(kept) != 2 {
		t.Errorf("%d are kept, not the two of d1", len(kept))
	}
}

func TestALargeResponse(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.deploy(t, responding)
	heard := w.hearAgents(t)
	defer w.keepResponding(t)()
	w.end(t, "d1", journaltest.Result(0, strings.Repeat(`x`, 1200<<10)))
	response := readResponse(t, next(t, heard))
	if response.Payload.Proposal.Content != "" || response.Payload.NumAgents != 1 {
		t.Errorf("heard %+v", response)
	}
	store, err := w.js.ObjectStore(t.Context(), journal.Results)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.GetBytes(t.Context(), response.Payload.ResultRef); err != nil {
		t.Errorf("the object that it names: %v", err)
	}
}

// TestSwitchedOffAndOn does not bring what happened in between.
func TestSwitchedOffAndOn(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.deploy(t, responding)
	w.deploy(t, func(*journal.Layout) {})
	w.end(t, "between", journaltest.Result(0, "yes"))
	w.deploy(t, responding)
	w.deploy(t, responding) // again changes nothing
	heard := w.hearAgents(t)
	defer w.keepResponding(t)()
	w.end(t, "after", &pb.DeliberationResult{AgentId: "a0", Proposal: "yes"})
	if response := readResponse(t, next(t, heard)); response.CorrelationID != "after" {
		t.Errorf("heard of %s", response.CorrelationID)
	}
}

// TestTheFleetsStreams keep what they cover; ours keeps the rest.
func TestTheFleetsStreams(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fleet jetstream.StreamConfig
		ours  []string
		says  string
	}{
		"none":     {ours: []string{events.ResponseSubjects}},
		"all":      {fleet: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"agent.>"}}},
		"one":      {fleet: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"agent.response.completed"}}, ours: []string{events.ResponseFailed}},
		"another":  {fleet: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"agent.response.progress"}}, ours: []string{events.ResponseCompleted, events.ResponseFailed}},
		"our name": {fleet: jetstream.StreamConfig{Name: journal.Responses, Subjects: []string{"agent.response.*"}}},
		"too few":  {fleet: jetstream.StreamConfig{Name: journal.Responses, Subjects: []string{"agent.response.completed"}}, says: "add the subjects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			if test.fleet.Name != "" {
				if _, err := w.js.CreateStream(t.Context(), test.fleet); err != nil {
					t.Fatal(err)
				}
			}
			layout := journaltest.Layout()
			layout.AgentResponses = true
			for range 2 {
				err := w.Deploy(t.Context(), layout)
				if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) || test.says == "" && err != nil {
					t.Fatalf("deploy: %v", err)
				}
			}
			if test.ours == nil {
				return
			}
			stream, err := w.js.Stream(t.Context(), journal.Responses)
			if err != nil || !slices.Equal(stream.CachedInfo().Config.Subjects, test.ours) {
				t.Errorf("ours is %v, %v", stream, err)
			}
		})
	}
}
