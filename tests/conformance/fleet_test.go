package conformance_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/journal/journaltest"
	fleetpb "rayexecutor/proto/fleet/ray_executor/v1"
	pb "rayexecutor/proto/ray_executor/v1"
)

// callsRPCs is about the doors that serve the API of newer fleets too.
func callsRPCs(f door) bool {
	switch f.(type) {
	case *grpc, *connect:
		return true
	}
	return false
}

// fleetRows are cases of fleet.ray_executor.v1.
func fleetRows() []row {
	rows := []row{
		{name: "fleet: execute, every field", run: func(t *testing.T, h *house, f door) {
			full := fullRequest("")
			sent := &fleetpb.ExecuteDeliberationRequest{
				TaskId: full.GetTaskId(), TaskDescription: full.GetTaskDescription(), Role: full.GetRole(),
				Constraints: &fleetpb.TaskConstraints{
					StoryId: "S", PlanId: "P", TimeoutSeconds: 86400, MaxRetries: 7, Metadata: map[string]string{"key": "value"},
				},
				Agents:  fleetAgents(full.GetAgents()),
				VllmUrl: full.GetVllmUrl(), VllmModel: full.GetVllmModel(),
			}
			full.Pool, full.Constraints.MaxRetries = "", proto.Int32(7)
			record, _ := recorded(t, h, fleetSubmit(t, f, sent, full.GetTaskId()))
			same(t, "the request", record.GetRequest(), full)
		}},
		{name: "fleet: execute a backlog review, every field", run: func(t *testing.T, h *house, f door) {
			full := fullRequest("")
			sent := &fleetpb.ExecuteBacklogReviewDeliberationRequest{
				TaskId: full.GetTaskId(), TaskDescription: full.GetTaskDescription(), Role: full.GetRole(),
				Constraints: &fleetpb.BacklogReviewTaskConstraints{
					StoryId: "S", TimeoutSeconds: 86400, MaxRetries: 7, Metadata: map[string]string{"key": "value"},
				},
				Agents:  fleetAgents(full.GetAgents()),
				VllmUrl: full.GetVllmUrl(), VllmModel: full.GetVllmModel(),
			}
			full.Pool = ""
			full.Constraints = &pb.TaskConstraints{
				StoryId: "S", TimeoutSeconds: 86400, MaxRetries: proto.Int32(7), Metadata: map[string]string{"key": "value", "story_id": "S"},
			}
			record, _ := recorded(t, h, fleetSubmit(t, f, sent, full.GetTaskId()))
			same(t, "the request", record.GetRequest(), full)
		}},
		{name: "fleet: defaults", run: func(t *testing.T, h *house, f door) {
			record, _ := recorded(t, h, fleetSubmit(t, f, fleetRequest("t"), "t"))
			if record.GetTimeoutSeconds() != 300 || record.GetMaxRetries() != 3 || record.GetRequest().GetConstraints() != nil {
				t.Errorf("recorded is %v", record)
			}
		}},
		{name: "fleet: each call is another deliberation", run: func(t *testing.T, _ *house, f door) {
			if once := fleetSubmit(t, f, fleetRequest("t"), "t"); once == fleetSubmit(t, f, fleetRequest("t"), "t") {
				t.Errorf("both are %s", once)
			}
		}},
		{name: "fleet: status", run: fleetStatus},
		{name: "fleet: status: unknown", run: func(t *testing.T, _ *house, f door) {
			o := ask(t, f, &fleetpb.GetDeliberationStatusRequest{DeliberationId: "nobody-knows"}, notFound)
			if got := o.reply.(*fleetpb.GetDeliberationStatusResponse); got.GetStatus() != "not_found" || got.GetResult() != nil {
				t.Errorf("the status is %v", got)
			}
		}},
		{name: "fleet: jobs and statistics are those of ray_executor.v1", run: func(t *testing.T, _ *house, f door) {
			fleetSubmit(t, f, fleetRequest("t"), "t")
			prefixOf(t, ask(t, f, &fleetpb.GetActiveJobsRequest{}, ok).reply, ask(t, f, &pb.GetActiveJobsRequest{}, ok).reply)
			prefixOf(t, ask(t, f, &fleetpb.GetStatusRequest{}, ok).reply, ask(t, f, &pb.GetStatusRequest{}, ok).reply)
		}},
		{name: "fleet: refused, with the field", run: fleetRefused},
	}
	for i := range rows {
		rows[i].about = callsRPCs
	}
	return rows
}

func fleetRequest(task string) *fleetpb.ExecuteDeliberationRequest {
	return &fleetpb.ExecuteDeliberationRequest{
		TaskId: task, TaskDescription: "Decide.", Role: "DEV", Agents: []*fleetpb.Agent{{Id: "a0"}, {Id: "a1"}},
	}
}

func fleetAgents(agents []*pb.Agent) []*fleetpb.Agent {
	made := make([]*fleetpb.Agent, len(agents))
	for i, agent := range agents {
		made[i] = &fleetpb.Agent{Id: agent.GetId(), Role: agent.GetRole(), Model: agent.GetModel(), PromptTemplate: agent.GetPromptTemplate()}
	}
	return made
}

// fleetSubmit submits, checks the receipt, and returns the id.
func fleetSubmit(t *testing.T, f door, request proto.Message, task string) string {
	t.Helper()
	receipt := ask(t, f, request, ok).reply.(*fleetpb.ExecuteDeliberationResponse)
	if receipt.GetTaskId() != task || receipt.GetStatus() != "submitted" || receipt.GetDeliberationId() == "" || receipt.GetMessage() == "" {
		t.Fatalf("the receipt is %v", receipt)
	}
	return receipt.GetDeliberationId()
}

func fleetStatus(t *testing.T, h *house, f door) {
	status := func(id string) proto.Message {
		return ask(t, f, &fleetpb.GetDeliberationStatusRequest{DeliberationId: id}, ok).reply
	}
	id := fleetSubmit(t, f, fleetRequest("t"), "t")
	same(t, "the status", status(id), &fleetpb.GetDeliberationStatusResponse{Status: "queued"})
	started(t, h, id)
	same(t, "the status", status(id), &fleetpb.GetDeliberationStatusResponse{Status: "running"})
	result := journaltest.Result(1, "Do it. 実行")
	result.Reasoning = "Because."
	won(t)(h.worker.Completed(t.Context(), id, journaltest.Result(0, ""), result))
	same(t, "the status", status(id), &fleetpb.GetDeliberationStatusResponse{
		Status: "completed", Result: &fleetpb.DeliberationResult{
			AgentId: result.GetAgentId(), Proposal: result.GetProposal(), Reasoning: result.GetReasoning(), Metadata: result.GetMetadata(),
		},
	})
	id = fleetSubmit(t, f, fleetRequest("t"), "t")
	failed(t, h, id)
	same(t, "the status", status(id), &fleetpb.GetDeliberationStatusResponse{Status: "failed", ErrorMessage: "no agent answered"})
}

func fleetRefused(t *testing.T, _ *house, f door) {
	for field, spoil := range map[string]func(*fleetpb.ExecuteDeliberationRequest){
		"task_id":          func(r *fleetpb.ExecuteDeliberationRequest) { r.TaskId = " " },
		"task_description": func(r *fleetpb.ExecuteDeliberationRequest) { r.TaskDescription = "" },
		"role":             func(r *fleetpb.ExecuteDeliberationRequest) { r.Role = strings.Repeat("r", 257) },
		"agents":           func(r *fleetpb.ExecuteDeliberationRequest) { r.Agents = nil },
		"agents[1].id":     func(r *fleetpb.ExecuteDeliberationRequest) { r.Agents[1].Id = "a b" },
		"vllm_url":         func(r *fleetpb.ExecuteDeliberationRequest) { r.VllmUrl = "http://elsewhere" },
		"constraints.timeout_seconds": func(r *fleetpb.ExecuteDeliberationRequest) {
			r.Constraints = &fleetpb.TaskConstraints{TimeoutSeconds: 86401}
		},
		"constraints.max_retries": func(r *fleetpb.ExecuteDeliberationRequest) { r.Constraints = &fleetpb.TaskConstraints{MaxRetries: -1} },
	} {
		sent := fleetRequest("t")
		spoil(sent)
		if o := ask(t, f, sent, invalid); o.field != field {
			t.Errorf("%s: the field is %q: %v", field, o.field, o)
		}
	}
	review := &fleetpb.ExecuteBacklogReviewDeliberationRequest{TaskId: "t", TaskDescription: "d", Role: "R"}
	if o := ask(t, f, review, invalid); o.field != "agents" {
		t.Errorf("a review without agents is %v", o)
	}
	large := fleetRequest("t")
	large.TaskDescription = strings.Repeat("x", 1<<20)
	ask(t, f, large, tooLarge)
}

// prefixOf compares a fleet's message with ours, whose further fields it does not
// have. What passing time changes is left out.
func prefixOf(t *testing.T, got, ours proto.Message) {
	t.Helper()
	data, err := inProtobuf.marshal(ours)
	want := got.ProtoReflect().New().Interface()
	if err == nil {
		err = proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, want)
	}
	if err != nil {
		t.Fatal(err)
	}
	same(t, typeOf(got), timeless(got), timeless(want))
}

func timeless(message proto.Message) proto.Message {
	switch m := message.(type) {
	case *fleetpb.GetActiveJobsResponse:
		for _, job := range m.GetJobs() {
			job.Runtime = ""
		}
	case *fleetpb.GetStatusResponse:
		m.UptimeSeconds = 0
	}
	return message
}
