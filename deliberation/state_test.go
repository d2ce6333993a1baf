package deliberation_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// numbered numbers events as the journal would, a second apart.
func numbered(events ...proto.Message) []deliberation.Entry {
	entries := make([]deliberation.Entry, len(events))
	for i, event := range events {
		entries[i] = deliberation.Entry{Sequence: uint64(i + 1), Time: noon.Add(time.Duration(i) * time.Second), Event: event}
	}
	return entries
}

func result(agent, failure string) *pb.DeliberationResult {
	if failure != "" {
		return &pb.DeliberationResult{AgentId: agent, Metadata: map[string]string{"error": failure}}
	}
	return &pb.DeliberationResult{AgentId: agent, Proposal: "by " + agent}
}

var (
	requested = &pb.DeliberationRequested{DeliberationId: "d", TaskId: "t", Pool: "default", TimeoutSeconds: 60, Request: request()}
	started   = &pb.DeliberationStarted{DeliberationId: "d", Attempt: 1, Cluster: "east"}
	restarted = &pb.DeliberationStarted{DeliberationId: "d", Attempt: 2, Cluster: "west", FirstStartedAt: timestamppb.New(noon.Add(time.Second))}
	first     = &pb.AgentCompleted{DeliberationId: "d", AgentIndex: 0, Result: result("a-1", "")}
	second    = &pb.AgentCompleted{DeliberationId: "d", AgentIndex: 1, Result: result("a-2", "")}
	completed = &pb.DeliberationCompleted{DeliberationId: "d", Results: []*pb.DeliberationResult{result("a-1", "timed out"), result("a-2", "")}}
	failed    = &pb.DeliberationFailed{DeliberationId: "d", ErrorMessage: "no agent proposed"}
	cancelled = &pb.DeliberationCancelled{DeliberationId: "d", Reason: "changed my mind"}
)

func TestFold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		events                 []proto.Message
		state                  deliberation.State
		attempts               int32
		cluster, reason        string
		started, ended         int // seconds after noon, -1 for not at all
		result                 string
		results                []string
		sequence               uint64
		beginningIsNotInStream bool
	}{
		"nothing":          {state: deliberation.Unknown, started: -1, ended: -1, beginningIsNotInStream: true},
		"requested":        {events: []proto.Message{requested}, state: deliberation.Queued, started: -1, ended: -1, sequence: 1},
		"started":          {events: []proto.Message{requested, started}, state: deliberation.Running, attempts: 1, cluster: "east", started: 1, ended: -1, sequence: 2},
		"started again":    {events: []proto.Message{requested, started, restarted}, state: deliberation.Running, attempts: 2, cluster: "west", started: 1, ended: -1, sequence: 3},
		"the last start":   {events: []proto.Message{requested, restarted}, state: deliberation.Running, attempts: 2, cluster: "west", started: 1, ended: -1, sequence: 2},
		"one proposal":     {events: []proto.Message{requested, started, second}, state: deliberation.Running, attempts: 1, cluster: "east", started: 1, ended: -1, result: "a-2", results: []string{"a-2"}, sequence: 3},
		"in their order":   {events: []proto.Message{requested, started, second, first}, state: deliberation.Running, attempts: 1, cluster: "east", started: 1, ended: -1, result: "a-1", results: []string{"a-1", "a-2"}, sequence: 4},
		"completed":        {events: []proto.Message{requested, started, completed}, state: deliberation.Completed, attempts: 1, cluster: "east", started: 1, ended: 2, result: "a-2", results: []string{"a-1", "a-2"}, sequence: 3},
		"failed":           {events: []proto.Message{requested, started, failed}, state: deliberation.Failed, attempts: 1, cluster: "east", reason: "no agent proposed", started: 1, ended: 2, sequence: 3},
		"failed, queued":   {events: []proto.Message{requested, failed}, state: deliberation.Failed, reason: "no agent proposed", started: -1, ended: 1, sequence: 2},
		"cancelled":        {events: []proto.Message{requested, cancelled}, state: deliberation.Cancelled, reason: "changed my mind", started: -1, ended: 1, sequence: 2},
		"cancelled late":   {events: []proto.Message{requested, started, first, cancelled}, state: deliberation.Cancelled, attempts: 1, cluster: "east", reason: "changed my mind", started: 1, ended: 3, result: "a-1", results: []string{"a-1"}, sequence: 4},
		"late worker":      {events: []proto.Message{requested, cancelled, restarted, first, completed, failed}, state: deliberation.Cancelled, reason: "changed my mind", started: -1, ended: 1, sequence: 6},
		"beginning is old": {events: []proto.Message{started, first}, state: deliberation.Running, attempts: 1, cluster: "east", started: 0, ended: -1, result: "a-1", results: []string{"a-1"}, sequence: 2, beginningIsNotInStream: true},
		"start first":      {events: []proto.Message{started, requested}, state: deliberation.Running, attempts: 1, cluster: "east", started: 0, ended: -1, sequence: 2},
		"of another kind":  {events: []proto.Message{requested, &pb.Error{}}, state: deliberation.Queued, started: -1, ended: -1, sequence: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := deliberation.Fold(numbered(test.events...))
			status := d.Status("d")
			var results []string
			for _, r := range status.GetResults() {
				results = append(results, r.GetAgentId())
			}
			got := fmt.Sprint(status.GetStatus(), d.Attempts, d.Cluster, d.Reason, seconds(d.Started), seconds(d.Ended),
				status.GetResult().GetAgentId(), results, d.Sequence, d.Requested == nil)
			want := fmt.Sprint(test.state, test.attempts, test.cluster, test.reason, test.started, test.ended,
				test.result, test.results, test.sequence, test.beginningIsNotInStream)
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func seconds(at time.Time) int {
	if at.IsZero() {
		return -1
	}
	return int(at.Sub(noon).Seconds())
}

func TestStatus(t *testing.T) {
	t.Parallel()
	d := deliberation.Fold(numbered(requested, started, completed))
	want := &pb.GetDeliberationStatusResponse{
		DeliberationId: "d", TaskId: "t", Pool: "default", Cluster: "east", Status: "completed", Attempts: 1,
		Results: completed.GetResults(), Result: completed.GetResults()[1],
		SubmittedAt: timestamppb.New(noon), StartedAt: timestamppb.New(noon.Add(time.Second)), EndedAt: timestamppb.New(noon.Add(2 * time.Second)),
	}
	if got := d.Status("d"); !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	unknown := deliberation.Fold(nil).Status("x")
	if unknown.GetStatus() != "not_found" || unknown.GetDeliberationId() != "x" || unknown.GetErrorMessage() == "" {
		t.Errorf("an unknown id: %v", unknown)
	}
	summary := d.Summary()
	if summary.GetDeliberationId() != "d" || summary.GetRole() != "DEV" || summary.GetAgents() != 2 || summary.GetStatus() != "completed" {
		t.Errorf("summary: %v", summary)
	}
	if d.Recorded(0) != nil || deliberation.Fold(numbered(requested, first)).Recorded(0).GetAgentId() != "a-1" {
		t.Error("Recorded returns the result of an agent")
	}
	if deliberation.Proposed(nil) || deliberation.Proposed(result("a", "broken")) || !deliberation.Proposed(result("a", "")) {
		t.Error("an agent has proposed when its result carries no error")
	}
}

func TestDeadLetter(t *testing.T) {
	t.Parallel()
	gaveUp := &pb.DeliberationFailed{DeliberationId: "d", GivenUp: true}
	for want, events := range map[bool][]proto.Message{
		true:  {requested, gaveUp}, // also one that no worker lived to start
		false: {requested, started, failed, gaveUp},
	} {
		if got := deliberation.Fold(numbered(events...)).DeadLetter; got != want {
			t.Errorf("%v is given up: %v", events, got)
		}
	}
}

func TestJobMatchesPythonService(t *testing.T) {
	t.Parallel()
	queued := deliberation.Fold(numbered(requested)).Job(noon.Add(1500 * time.Millisecond))
	if queued.GetRuntime() != "2s" || !queued.GetStartTime().AsTime().Equal(noon) || queued.GetStatus() != "queued" {
		t.Errorf("queued: %v", queued)
	}
	running := deliberation.Fold(numbered(requested, started)).Job(noon.Add(66 * time.Second))
	want := &pb.JobInfo{
		JobId: "d", Name: "deliberation-d", Status: "running", SubmissionId: "d", Role: "DEV", TaskId: "t",
		StartTime: timestamppb.New(noon.Add(time.Second)), Runtime: "1m5s",
	}
	if !proto.Equal(running, want) {
		t.Errorf("got  %v\nwant %v", running, want)
	}
	if early := deliberation.Fold(numbered(requested)).Job(noon.Add(-time.Hour)); early.GetRuntime() != "0s" {
		t.Errorf("a clock behind the journal's: %s", early.GetRuntime())
	}
}

// TestOneEnd: in any order of events the first end decides
// and nothing after it changes the answer.
func TestOneEnd(t *testing.T) {
	t.Parallel()
	all := []proto.Message{requested, started, restarted, first, second, completed, failed, cancelled}
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(rapid.SampledFrom(all), 0, 12).Draw(t, "events")
		entries := numbered(events...)
		end := slices.IndexFunc(events, func(event proto.Message) bool { return deliberation.EndState(event).Ended() })
		whole := deliberation.Fold(entries)
		if whole.State.Ended() != (end >= 0) {
			t.Fatalf("state %s with its end at %d", whole.State, end)
		}
		if end < 0 {
			return
		}
		upToEnd := deliberation.Fold(entries[:end+1])
		if !proto.Equal(whole.Status("d"), upToEnd.Status("d")) {
			t.Fatalf("what came after the end changed it:\n%v\n%v", upToEnd.Status("d"), whole.Status("d"))
		}
		if whole.Sequence != uint64(len(entries)) {
			t.Fatalf("folded up to %d of %d", whole.Sequence, len(entries))
		}
	})
}

func TestUsageOfAHistory(t *testing.T) {
	t.Parallel()
	used := func(tokens int64) *pb.DeliberationResult {
		return &pb.DeliberationResult{Usage: &pb.Usage{PromptTokens: tokens, Requests: 1}}
	}
	requested := deliberation.Entry{Sequence: 1, Event: &pb.DeliberationRequested{DeliberationId: "d"}}
	agent := func(index int32, result *pb.DeliberationResult) deliberation.Entry {
		return deliberation.Entry{Sequence: uint64(index) + 2, Event: &pb.AgentCompleted{DeliberationId: "d", AgentIndex: index, Result: result}}
	}
	end := func(usage *pb.Usage) deliberation.Entry {
		return deliberation.Entry{Sequence: 9, Event: &pb.DeliberationFailed{DeliberationId: "d", Usage: usage}}
	}
	for name, test := range map[string]struct {
		entries []deliberation.Entry
		want    *pb.Usage
	}{
		"nothing recorded": {[]deliberation.Entry{requested, agent(0, &pb.DeliberationResult{})}, nil},
		"running":          {[]deliberation.Entry{requested, agent(0, used(3)), agent(1, used(4))}, &pb.Usage{PromptTokens: 7, Requests: 2}},
		"the end's own":    {[]deliberation.Entry{requested, agent(0, used(3)), end(&pb.Usage{PromptTokens: 9, Requests: 4})}, &pb.Usage{PromptTokens: 9, Requests: 4}},
		"an older end":     {[]deliberation.Entry{requested, agent(0, used(3)), end(nil)}, &pb.Usage{PromptTokens: 3, Requests: 1}},
	} {
		if got := deliberation.Fold(test.entries).Status("d").GetUsage(); !proto.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
