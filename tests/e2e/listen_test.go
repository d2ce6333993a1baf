package e2e_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"rayexecutor/deliberation"
	"rayexecutor/standin"
	"rayexecutor/tests/await"
)

// heard is an announcement as the Orchestrator reads it.
type heard struct {
	SpecVersion string  `json:"specversion"`
	ID          string  `json:"id"`
	Type        string  `json:"type"`
	Source      string  `json:"source"`
	Subject     string  `json:"subject"`
	ContentType string  `json:"datacontenttype"`
	Data        endData `json:"data"`
}

// endData is the life-cycle message in it.
type endData struct {
	DeliberationID string `json:"deliberation_id"`
	TaskID         string `json:"task_id"`
	ErrorMessage   string `json:"error_message"`
	Results        []struct {
		AgentID  string `json:"agent_id"`
		Proposal string `json:"proposal"`
	} `json:"results"`
}

func twoListenersHearEachEndOnce(t *testing.T) {
	first, second := listen(t), listen(t)
	completed := sys.Submit(t, request("heard", agents(2)...))
	failing := request("heard-failing", agents(1)...)
	failing.VllmModel = behave(t, "heard-failing", standin.Behaviour{Status: 404})
	failed := sys.Submit(t, failing)
	hanging := request("heard-cancelled", agents(1)...)
	hanging.VllmModel = behave(t, "heard-hanging", standin.Behaviour{Hang: true})
	cancelled := sys.Submit(t, hanging)
	sys.Cancel(t, cancelled, "enough")

	for _, listener := range []*nats.Subscription{first, second} {
		ends := collect(t, listener, completed, failed, cancelled)
		expectHeard(t, ends[completed], "completed", "ray_executor.v1.DeliberationCompleted", completed)
		expectHeard(t, ends[failed], "failed", "ray_executor.v1.DeliberationFailed", failed)
		expectHeard(t, ends[cancelled], "cancelled", "ray_executor.v1.DeliberationCancelled", cancelled)
		if results := ends[completed][0].Data.Results; len(results) != 2 || results[0].Proposal == "" {
			t.Errorf("the completion tells results %v", results)
		}
	}
	expectState(t, sys.Status(t, completed), deliberation.Completed)
}

// theSinkIsSentEachEnd is what K_SINK and AGENT_RESPONSES add.
func theSinkIsSentEachEnd(t *testing.T) {
	conn, err := sys.NATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	responses, err := conn.SubscribeSync("agent.response.completed")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	id := sys.Submit(t, request("sink", agents(2)...))
	end := sink.await(t, id+".done")
	if end.kind != "ray_executor.v1.DeliberationCompleted" || len(end.data.Results) != 2 || end.data.Results[0].Proposal == "" {
		t.Errorf("posted %+v", end)
	}
	for received := 0; received < 2; { // others' agents are heard too
		message, err := responses.NextMsg(await.Limit)
		if err != nil {
			t.Fatalf("%d agents' responses came: %v", received, err)
		}
		var response struct {
			CorrelationID string `json:"correlation_id"`
			Payload       struct {
				DurationMS int64 `json:"duration_ms"`
				NumAgents  int   `json:"num_agents"`
				Proposal   struct {
					Content string `json:"content"`
				} `json:"proposal"`
			} `json:"payload"`
		}
		if err := json.Unmarshal(message.Data, &response); err != nil {
			t.Fatalf("%s: %v", message.Data, err)
		}
		if response.CorrelationID != id {
			continue
		}
		received++
		if response.Payload.NumAgents != 2 || response.Payload.Proposal.Content == "" {
			t.Errorf("received %s", message.Data)
		}
	}
}

func listen(t *testing.T) *nats.Subscription {
	t.Helper()
	conn, err := sys.NATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	subscription, err := conn.SubscribeSync("orchestration.deliberation.*")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return subscription
}

// collect hears until each of some deliberations has ended, and for a moment
// more, in which an end that came twice would be heard.
func collect(t *testing.T, listener *nats.Subscription, ids ...string) map[string][]heard {
	t.Helper()
	ends := make(map[string][]heard)
	for wait := await.Limit; ; {
		message, err := listener.NextMsg(wait)
		if err != nil {
			break
		}
		var end heard
		if err := json.Unmarshal(message.Data, &end); err != nil {
			t.Fatalf("%s: %v", message.Data, err)
		}
		ends[end.Subject] = append(ends[end.Subject], end)
		if complete(ends, ids) {
			wait = 300 * time.Millisecond
		}
	}
	return ends
}

func complete(ends map[string][]heard, ids []string) bool {
	for _, id := range ids {
		if len(ends[id]) == 0 {
			return false
		}
	}
	return true
}

func expectHeard(t *testing.T, ends []heard, state, eventType, id string) {
	t.Helper()
	if len(ends) != 1 {
		t.Fatalf("%s was heard %d times as %s, not once", id, len(ends), state)
	}
	end := ends[0]
	if end.Type != eventType || end.ID != id+".done" || end.Data.DeliberationID != id ||
		end.SpecVersion != "1.0" || end.ContentType != "application/json" || end.Source == "" {
		t.Errorf("heard %+v", end)
	}
}
