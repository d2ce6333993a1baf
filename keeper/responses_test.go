package keeper_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	"rayexecutor/keeper/keepertest"
	pb "rayexecutor/proto/ray_executor/v1"
)

func responding(layout *journal.Layout) { layout.AgentResponses = true }

// respond deploys for responses and runs a keeper that publishes one for each agent,
// until the test ends. It returns those that are published from now on.
func (w world) respond(t *testing.T) (heard <-chan *nats.Msg) {
	t.Helper()
	w.Redeploy(t, responding)
	heard = w.Subscribe(t, "agent.response.>")
	w.keep(t, keepertest.Quiet(), keeper.AgentResponses())
	return heard
}

// readableResponse is a response as a consumer reads it.
type readableResponse struct {
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

func readResponse(t *testing.T, message *nats.Msg) readableResponse {
	t.Helper()
	var response readableResponse
	if err := json.Unmarshal(message.Data, &response); err != nil {
		t.Fatalf("%s: %v", message.Data, err)
	}
	key := sha256.Sum256([]byte(response.EventType + ":" + response.CorrelationID + ":" + response.Payload.AgentID))
	if want := hex.EncodeToString(key[:]); response.IdempotencyKey != want || message.Header.Get("Nats-Msg-Id") != want {
		t.Errorf("key %s, id %s, want %s", response.IdempotencyKey, message.Header.Get("Nats-Msg-Id"), want)
	}
	// The backlog review has subjects of its own.
	if !strings.HasPrefix(message.Subject+".", response.EventType+".") {
		t.Errorf("%s on %s", response.EventType, message.Subject)
	}
	return response
}

func TestAgentResponses(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.Complete(t, "before", journaltest.Result(0, "yes"))
	heard := w.respond(t)
	w.Submit(t, "d1", 3, 77)
	w.Complete(t, "d1", journaltest.Result(0, "yes"), journaltest.Result(1, ""))

	yes := readResponse(t, keepertest.Next(t, heard))
	if yes.EventType != "agent.response.completed" || yes.CorrelationID != "d1" || yes.Payload.AgentID != "a0" || yes.Payload.Proposal.Content != "yes" ||
		yes.Payload.TaskID != "task-d1" || yes.Payload.Role != "architect" || yes.Payload.NumAgents != 3 || yes.Payload.Constraints.Timeout != 77 {
		t.Errorf("heard %+v", yes)
	}
	no := readResponse(t, keepertest.Next(t, heard))
	if no.EventType != "agent.response.failed" || no.Payload.AgentID != "a1" || no.Payload.Proposal != nil || *no.Payload.Error != "no answer" {
		t.Errorf("heard %+v", no)
	}
	if stored := journaltest.Messages(t, w.Server.URL, journal.Responses, "agent.response.>"); len(stored) != 2 {
		t.Errorf("%d are stored, not the two of d1", len(stored))
	}
}

// The consumers of the backlog review read subjects of their own. One message for
// each agent: they do not deduplicate.
func TestResponsesOfTheBacklogReview(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.respond(t)
	for id, test := range map[string]struct{ task, kind, subject string }{
		"role":       {"ceremony-1:story-2:role-QA", "", "agent.response.completed.backlog-review.role"},
		"extraction": {"ceremony-1:story-2:task-extraction", "", "agent.response.completed.task-extraction"},
		"by-type":    {"t-1", "TASK_EXTRACTION", "agent.response.completed.task-extraction"},
		"other":      {"ceremony-1", "", "agent.response.completed"},
	} {
		record := journaltest.Record(id, 2, 77)
		record.Request.Constraints = &pb.TaskConstraints{Metadata: map[string]string{"task_id": test.task, "task_type": test.kind}}
		if _, err := w.Accept(t.Context(), record, ""); err != nil {
			t.Fatal(err)
		}
		w.Complete(t, id, journaltest.Result(0, "yes"), journaltest.Result(1, ""))
		for _, subject := range []string{test.subject, "agent.response.failed"} {
			message := keepertest.Next(t, heard)
			response := readResponse(t, message)
			if message.Subject != subject || response.CorrelationID != id || response.Payload.TaskID != test.task || !strings.HasPrefix(subject, response.EventType) {
				t.Errorf("%s: %+v on %s, want %s", id, response, message.Subject, subject)
			}
		}
	}
	if len(heard) > 0 {
		t.Errorf("%d more", len(heard))
	}
	if stored := journaltest.Messages(t, w.Server.URL, journal.Responses, "agent.response.>"); len(stored) != 8 {
		t.Errorf("%d are stored, want one for each agent", len(stored))
	}
}

func TestALargeResponse(t *testing.T) {
	t.Parallel()
	w := setup(t)
	heard := w.respond(t)
	w.Complete(t, "d1", journaltest.Result(0, strings.Repeat(`x`, 1200<<10)))
	response := readResponse(t, keepertest.Next(t, heard))
	if response.Payload.Proposal.Content != "" || response.Payload.NumAgents != 1 {
		t.Errorf("heard %+v", response)
	}
	store, err := w.JS.ObjectStore(t.Context(), journal.Results)
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
	w.Redeploy(t, responding)
	w.Redeploy(t, func(*journal.Layout) {})
	w.Complete(t, "between", journaltest.Result(0, "yes"))
	w.Redeploy(t, responding)
	heard := w.respond(t) // deployed again: that changes nothing
	w.Complete(t, "after", &pb.DeliberationResult{AgentId: "a0", Proposal: "yes"})
	if response := readResponse(t, keepertest.Next(t, heard)); response.CorrelationID != "after" {
		t.Errorf("heard of %s", response.CorrelationID)
	}
}

// TestTheFleetsStreams: a fleet's stream stores what it covers; ours stores the rest.
func TestTheFleetsStreams(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fleet jetstream.StreamConfig
		ours  []string
		says  string
	}{
		"none":     {ours: []string{events.ResponseSubjects}},
		"all":      {fleet: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"agent.>"}}},
		"one":      {fleet: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"agent.response.completed"}}, ours: []string{events.ResponseFailed, events.ResponseReview, events.ResponseExtraction}},
		"another":  {fleet: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"agent.response.progress"}}, ours: []string{events.ResponseCompleted, events.ResponseFailed, events.ResponseReview, events.ResponseExtraction}},
		"our name": {fleet: jetstream.StreamConfig{Name: journal.Responses, Subjects: []string{"agent.response.>"}}},
		"too few":  {fleet: jetstream.StreamConfig{Name: journal.Responses, Subjects: []string{"agent.response.*"}}, says: "add the subjects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := setup(t)
			if test.fleet.Name != "" {
				if _, err := w.JS.CreateStream(t.Context(), test.fleet); err != nil {
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
			stream, err := w.JS.Stream(t.Context(), journal.Responses)
			if err != nil || !slices.Equal(stream.CachedInfo().Config.Subjects, test.ours) {
				t.Errorf("ours is %v, %v", stream, err)
			}
		})
	}
}
