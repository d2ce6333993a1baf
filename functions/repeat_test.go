package functions_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"connectrpc.com/connect"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

// lose makes the journal store requests without an answer, until the returned
// function is called.
func (m *memory) lose() (restore func()) {
	set := func(err error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.lost = err
	}
	set(away)
	return func() { set(nil) }
}

// TestRepeatWithTheIDOfAnError: a caller without an id learns the chosen one from
// the error, and repeats with it.
func TestRepeatWithTheIDOfAnError(t *testing.T) {
	t.Parallel()
	f := setup(t)
	restore := f.journal.lose()
	_, err := f.Submit(t.Context(), request(""), functions.Origin{})
	refused(t, err, deliberation.Unavailable, "NATS_URL")
	id := deliberation.AsError(err).DeliberationID
	restore()

	for name, repeat := range map[string]struct {
		inMessage, ofDoor string
	}{"in the message": {id, ""}, "as the key": {"", id}, "both": {id, id}} {
		got, err := f.Submit(t.Context(), request(repeat.inMessage), functions.Origin{DeliberationID: repeat.ofDoor})
		if err != nil || got.GetDeliberationId() != id || got.GetStatus() != "submitted" || len(f.journal.entries) != 1 {
			t.Errorf("%s: %v, %v, %d entries", name, got, err, len(f.journal.entries))
		}
	}
	other := request(id)
	other.Role = "QA"
	_, err = f.Submit(t.Context(), other, functions.Origin{})
	refused(t, err, deliberation.Conflict, "deliberation_id")
}

// TestRepeatOverRPC: the id is in the error's details.
func TestRepeatOverRPC(t *testing.T) {
	t.Parallel()
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t)
			client := d.client(options...)
			restore := d.journal.lose()
			_, err := client.ExecuteDeliberation(t.Context(), request(""))
			coded, ok := errors.AsType[*connect.Error](err)
			if !ok || coded.Code() != connect.CodeUnavailable {
				t.Fatalf("got %v, want unavailable", err)
			}
			id := detailOf[*pb.Error](t, coded).GetDeliberationId()
			restore()
			got, err := client.ExecuteDeliberation(t.Context(), request(id))
			if err != nil || got.GetDeliberationId() != id || len(d.journal.entries) != 1 {
				t.Errorf("repeated with %q: %v, %v", id, got, err)
			}
		})
	}
}

// TestRepeatOverREST: the id of the problem goes into the body or into the key.
func TestRepeatOverREST(t *testing.T) {
	t.Parallel()
	f := setup(t)
	restore := f.journal.lose()
	id := readProblem(t, f.rest("POST", "/v1/deliberations", submission), http.StatusServiceUnavailable).DeliberationID
	restore()
	withID := `{"deliberation_id":"` + id + `",` + submission[1:]
	for name, repeat := range map[string][]string{"body": {withID}, "key": {submission, "Idempotency-Key", id}} {
		got := f.rest("POST", "/v1/deliberations", repeat[0], repeat[1:]...)
		var receipt struct {
			ID string `json:"deliberation_id"`
		}
		if err := json.Unmarshal(got.Body.Bytes(), &receipt); err != nil || got.Code != http.StatusOK || receipt.ID != id {
			t.Errorf("%s: %d %s", name, got.Code, got.Body)
		}
	}
}
