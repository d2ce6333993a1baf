package functions_test

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	fleetpb "rayexecutor/proto/fleet/ray_executor/v1"
	"rayexecutor/proto/fleet/ray_executor/v1/fleetv1connect"
	pb "rayexecutor/proto/ray_executor/v1"
)

// The fields of the fleet's messages are those of ours with the same name, but
// for the two messages of which the contract says otherwise.
func TestFleetNumbers(t *testing.T) {
	t.Parallel()
	ours := pb.File_ray_executor_v1_service_proto.Messages()
	requests := pb.File_ray_executor_v1_deliberation_proto.Messages()
	messages := fleetpb.File_fleet_ray_executor_v1_ray_executor_proto.Messages()
	for i := range messages.Len() {
		message := messages.Get(i)
		switch message.Name() {
		case "ExecuteDeliberationResponse":
			wantFields(t, message, "1 task_id string", "2 deliberation_id string", "3 status string", "4 message string")
			continue
		case "BacklogReviewTaskConstraints":
			wantFields(t, message, "1 story_id string", "2 timeout_seconds int32", "3 max_retries int32", "4 metadata map")
			continue
		}
		like := requests.ByName(protoreflect.Name(strings.Replace(string(message.Name()), "BacklogReview", "", 1)))
		if like == nil {
			like = ours.ByName(message.Name())
		}
		if like == nil {
			t.Errorf("ray_executor.v1 has no %s", message.Name())
			continue
		}
		for j := range message.Fields().Len() {
			field := message.Fields().Get(j)
			if same := like.Fields().ByName(field.Name()); same == nil || described(same) != described(field) {
				t.Errorf("%s: %q is unlike that of ray_executor.v1", message.Name(), described(field))
			}
		}
	}
}

func wantFields(t *testing.T, message protoreflect.MessageDescriptor, want ...string) {
	t.Helper()
	for i, field := range want {
		if message.Fields().Len() != len(want) || described(message.Fields().Get(i)) != field {
			t.Errorf("%s has not %q", message.Name(), field)
		}
	}
}

// described is what the wire depends on. In BacklogReview's request the constraints
// have a type of their own.
func described(field protoreflect.FieldDescriptor) string {
	kind := field.Kind().String()
	switch {
	case field.IsMap():
		kind = "map"
	case field.IsList():
		kind = "repeated " + kind
	}
	return fmt.Sprint(field.Number(), " ", field.Name(), " ", kind)
}

// The story is added to the metadata of a backlog review: not over another one,
// and not beyond the limit.
func TestStoryInMetadata(t *testing.T) {
	t.Parallel()
	d := open(t)
	client := fleetv1connect.NewRayExecutorServiceClient(d.http, d.url, connect.WithGRPC())
	full := make(map[string]string)
	for i := range 64 {
		full[fmt.Sprint("key", i)] = "value"
	}
	for name, test := range map[string]struct {
		metadata map[string]string
		story    string
		want     map[string]string
	}{
		"none":         {nil, "S-1", map[string]string{"story_id": "S-1"}},
		"beside":       {map[string]string{"k": "v"}, "S-1", map[string]string{"k": "v", "story_id": "S-1"}},
		"another":      {map[string]string{"story_id": "S-2"}, "S-1", map[string]string{"story_id": "S-2"}},
		"full":         {full, "S-1", full},
		"no story":     {map[string]string{"k": "v"}, "", map[string]string{"k": "v"}},
		"no metadata":  {nil, "", nil},
		"an empty one": {map[string]string{"story_id": ""}, "S-1", map[string]string{"story_id": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receipt, err := client.ExecuteBacklogReviewDeliberation(t.Context(), &fleetpb.ExecuteBacklogReviewDeliberationRequest{
				TaskId: "t", TaskDescription: "d", Role: "R", Agents: []*fleetpb.Agent{{Id: "a"}},
				Constraints: &fleetpb.BacklogReviewTaskConstraints{StoryId: test.story, Metadata: test.metadata},
			})
			if err != nil {
				t.Fatal(err)
			}
			history, err := d.journal.Read(t.Context(), receipt.GetDeliberationId())
			if err != nil {
				t.Fatal(err)
			}
			want := &pb.TaskConstraints{StoryId: test.story, Metadata: test.want}
			if got := history.Requested.GetRequest().GetConstraints(); !proto.Equal(got, want) {
				t.Errorf("recorded is %v, not %v", got, want)
			}
		})
	}
}
