package events_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// TestElementsAreCounted before they are decoded; quotes and braces in strings
// are none.
func TestElementsAreCounted(t *testing.T) {
	t.Parallel()
	empty := func(n int) *pb.ExecuteDeliberationRequest {
		made := &pb.ExecuteDeliberationRequest{TaskDescription: strings.Repeat(`{[,"\`, 4000)}
		for range n {
			made.Agents = append(made.Agents, &pb.Agent{})
		}
		return made
	}
	for agents, code := range map[int]deliberation.Code{0: "", 256: "", 4000: "", 8193: deliberation.TooLarge, 100_000: deliberation.TooLarge} {
		sent := empty(agents)
		binary, err := proto.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		text, err := events.MarshalJSON(&pb.DeliberationRequested{Request: &pb.ExecuteDeliberationRequest{TaskDescription: sent.GetTaskDescription()}})
		if err != nil {
			t.Fatal(err)
		}
		inJSON := strings.Replace(string(text), `"agents":[]`, `"agents":[`+strings.TrimSuffix(strings.Repeat("{},", agents), ",")+`]`, 1)
		for form, err := range map[string]error{
			"protobuf": events.UnmarshalProto(binary, new(pb.ExecuteDeliberationRequest)),
			"JSON":     events.UnmarshalJSON([]byte(inJSON), new(pb.DeliberationRequested)),
			"nested":   events.UnmarshalProto(marshal(t, &pb.DeliberationRequested{Request: sent}), new(pb.DeliberationRequested)),
		} {
			if code == "" && err != nil || code != "" && (err == nil || deliberation.AsError(err).Code != code) {
				t.Errorf("%d agents in %s: %v", agents, form, err)
			}
		}
	}
}

func marshal(t *testing.T, message proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// FuzzElements counts anything without going beyond it.
func FuzzElements(f *testing.F) {
	for _, seed := range []string{`{"a":"\\"}`, `["`, `"\`, "\x2a\x00", `[[[[`, `{"a":"\"[[["}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		// Long enough to be looked at.
		long := append(data, strings.Repeat(" ", 20_000)...)
		_ = events.UnmarshalJSON(long, new(pb.ExecuteDeliberationRequest))
		_ = events.UnmarshalProto(long, new(pb.ExecuteDeliberationRequest))
	})
}
