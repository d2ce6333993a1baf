package deliberation

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "rayexecutor/proto/ray_executor/v1"
)

// State is the state of a deliberation, in the words of the `status` field.
type State string

// The states. A deliberation is Queued until a worker starts it, then Running, and
// has exactly one end: Completed, Failed or Cancelled. An end is final. A running
// one whose worker is lost remains Running until another worker starts it.
const (
	Queued    State = "queued"
	Running   State = "running"
	Completed State = "completed"
	Failed    State = "failed"
	Cancelled State = "cancelled"
	// Unknown is the state of an id that the journal does not hold.
	Unknown State = "not_found"
)

// Ended reports whether s is an end.
func (s State) Ended() bool { return s == Completed || s == Failed || s == Cancelled }

// EndState returns the end that an event of the journal records; Unknown for an
// event that is no end. All readers recognise an end by this function.
func EndState(event proto.Message) State {
	switch event.(type) {
	case *pb.DeliberationCompleted:
		return Completed
	case *pb.DeliberationFailed:
		return Failed
	case *pb.DeliberationCancelled:
		return Cancelled
	default:
		return Unknown
	}
}

// Entry is an event in the journal.
type Entry struct {
	// Sequence is the event's sequence in the journal. It orders the events of all
	// deliberations, and is never used twice.
	Sequence uint64
	// Time is the journal's own, the only clock for deadlines.
	Time time.Time
	// Event is one of the messages of events.proto.
	Event proto.Message
	// Unreadable reports that the message could not be decoded: the event has only
	// what its subject says.
	Unreadable bool
}

// Query selects the deliberations of a page of a list.
type Query struct {
	// Before is a sequence: the page has requests before it only; 0 for the newest.
	Before uint64
	// Size bounds the deliberations of a page.
	Size int
	// Pool, TaskID and State are empty for all.
	Pool   string
	TaskID string
	State  State
	// Tenant is empty for those of all tenants.
	Tenant string
	// Labels are those that a request must have, by key; it may have more.
	Labels map[string]string
}

// Wants reports whether a request has the query's task and labels.
func (q Query) Wants(requested *pb.DeliberationRequested) bool {
	if q.TaskID != "" && requested.GetTaskId() != q.TaskID {
		return false
	}
	labels := requested.GetRequest().GetLabels()
	for key, want := range q.Labels {
		if value, found := labels[key]; !found || value != want {
			return false
		}
	}
	return true
}

// History is the fold of one deliberation's entries.
type History struct {
	// Requested is nil in the state Unknown, and if the journal no longer holds the
	// request.
	Requested *pb.DeliberationRequested
	State     State
	// Attempts is the number of the last start. A start after the first follows a
	// redelivery: the worker before was lost, or gave the deliberation back.
	Attempts int32
	// Cluster and Replica are where the last start happened.
	Cluster string
	Replica string
	// Submitted, Started and Ended are times of the journal's clock; zero if it has
	// not happened. Started is the first start.
	Submitted time.Time
	Started   time.Time
	Ended     time.Time
	// Reason is why it failed or was cancelled.
	Reason string
	// DeadLetter reports that it failed because too many workers were lost with it.
	DeadLetter bool
	// Winner is the id of the agent that the strategy chose; nil for none.
	Winner *string
	// Sequence is that of the last entry, also of one after the end.
	Sequence uint64
	// Unreadable reports that the request could not be decoded: Requested has only its
	// id, pool and timeout.
	Unreadable bool

	// agents are the agents' own records, by their index in the request. ending are
	// the results of the end, which its writer took from those records.
	agents map[int32]*pb.DeliberationResult
	ending []*pb.DeliberationResult
	// used is the end's usage; nil if there is none.
	used *pb.Usage
}

// Fold folds entries. They must be in the order of their sequence.
func Fold(entries []Entry) *History {
	d := &History{State: Unknown}
	for _, entry := range entries {
		d.apply(entry)
	}
	return d
}

// apply applies one more entry. Entries after the end are ignored: a worker that
// was paused may still write a result, and must not change an announced end.
func (d *History) apply(entry Entry) {
	// The sequence also counts entries that are ignored: a reader compares it with
	// the leader's last one.
	d.Sequence = entry.Sequence
	if d.State.Ended() {
		return
	}
	switch event := entry.Event.(type) {
	case *pb.DeliberationRequested:
		d.request(event, entry)
	case *pb.DeliberationStarted:
		d.start(event, entry.Time)
	case *pb.AgentCompleted:
		if d.agents == nil {
			d.agents = make(map[int32]*pb.DeliberationResult)
		}
		// The compare-and-set allows one record per agent, so nothing is overwritten.
		d.agents[event.GetAgentIndex()] = event.GetResult()
	case *pb.DeliberationCompleted:
		d.end(entry, event, "")
		d.Winner = event.Winner
	case *pb.DeliberationFailed:
		d.end(entry, event, event.GetErrorMessage())
		d.DeadLetter = event.GetGivenUp()
	case *pb.DeliberationCancelled:
		d.end(entry, event, event.GetReason())
	}
}

// request applies the acceptance. It does not reset the state, because a history
// without its first messages may begin with a start.
func (d *History) request(event *pb.DeliberationRequested, entry Entry) {
	if d.Requested != nil {
		return // the first one counts
	}
	d.Requested, d.Submitted, d.Unreadable = event, entry.Time, entry.Unreadable
	if d.State == Unknown {
		d.State = Queued
	}
}

// start applies the start of an attempt. Started is that of the first attempt, which
// later starts carry with them: a replica returns only the last one.
func (d *History) start(event *pb.DeliberationStarted, at time.Time) {
	d.State, d.Attempts = Running, event.GetAttempt()
	d.Cluster, d.Replica = event.GetCluster(), event.GetReplica()
	switch first := event.GetFirstStartedAt(); {
	case first != nil:
		d.Started = first.AsTime()
	case d.Started.IsZero(): // the first attempt itself
		d.Started = at
	}
}

// ending is what all ends have.
type ending interface {
	GetResults() []*pb.DeliberationResult
	GetUsage() *pb.Usage
}

// end applies the end.
func (d *History) end(entry Entry, event ending, reason string) {
	d.State, d.Ended, d.Reason = EndState(entry.Event), entry.Time, reason
	d.ending, d.used = event.GetResults(), event.GetUsage()
}

// Recorded returns the result of the agent at an index in the request; nil if it
// has none yet.
func (d *History) Recorded(index int) *pb.DeliberationResult { return d.agents[int32(index)] }

// Results returns the results so far, in the order of the agents in the request. The
// end's own list takes precedence. It may be empty: an end without room for its
// results is stored without them, and the agents' records have them.
func (d *History) Results() []*pb.DeliberationResult {
	if d.State.Ended() && len(d.ending) > 0 {
		return d.ending
	}
	// A map has no order; the answer must have one.
	indexes := make([]int32, 0, len(d.agents))
	for index := range d.agents {
		indexes = append(indexes, index)
	}
	slices.Sort(indexes)
	results := make([]*pb.DeliberationResult, len(indexes))
	for i, index := range indexes {
		results[i] = d.agents[index]
	}
	return results
}

// Usage returns what the deliberation used: the end's own sum, else that of the
// results so far; nil if nothing is recorded.
func (d *History) Usage() *pb.Usage {
	if d.used != nil {
		return d.used
	}
	return UsageOf(d.Results())
}

// Proposed reports whether an agent completed: its result has no error. A
// deliberation with one such result or more completes; with none it fails.
func Proposed(result *pb.DeliberationResult) bool {
	return result != nil && result.GetMetadata()["error"] == ""
}

// Status is the answer of GetDeliberationStatus. id is that of the call: an unknown
// deliberation has none of its own.
func (d *History) Status(id string) *pb.GetDeliberationStatusResponse {
	if d.State == Unknown {
		return &pb.GetDeliberationStatusResponse{
			DeliberationId: id, Status: string(Unknown),
			ErrorMessage: "no such deliberation: check the id; the journal retains a deliberation for a limited time",
		}
	}
	response := &pb.GetDeliberationStatusResponse{
		DeliberationId: id,
		Status:         string(d.State),
		ErrorMessage:   d.Reason,
		Results:        d.Results(),
		Attempts:       d.Attempts,
		SubmittedAt:    timestamp(d.Submitted),
		StartedAt:      timestamp(d.Started),
		EndedAt:        timestamp(d.Ended),
		Cluster:        d.Cluster,
		Pool:           d.Requested.GetPool(),
		TaskId:         d.Requested.GetTaskId(),
		Usage:          d.Usage(),
		Winner:         d.Winner,
		Rounds:         d.rounds(),
	}
	response.Result = d.result(response.GetResults())
	return response
}

// result is the winner's result; without a winner the first proposal, in the order
// of the request.
func (d *History) result(results []*pb.DeliberationResult) *pb.DeliberationResult {
	first := slices.IndexFunc(results, Proposed)
	if d.Winner != nil {
		won := func(result *pb.DeliberationResult) bool { return result.GetAgentId() == *d.Winner }
		first = slices.IndexFunc(results, won)
	}
	if first < 0 {
		return nil
	}
	return results[first]
}

// rounds lists what is recorded of each round, for a strategy that compares.
func (d *History) rounds() []*pb.Round {
	results := d.Results()
	if !Compares(d.Requested.GetRequest()) || len(results) == 0 {
		return nil
	}
	round := &pb.Round{Number: 1, Kind: "propose", Turns: make([]*pb.Turn, len(results))}
	for i, result := range results {
		round.Turns[i] = &pb.Turn{
			AgentId: result.GetAgentId(), Text: result.GetProposal(), Usage: result.GetUsage(), Error: result.GetMetadata()["error"],
		}
	}
	return []*pb.Round{round}
}

// Summary is the deliberation in ListDeliberations: without results and texts.
func (d *History) Summary() *pb.DeliberationSummary {
	return &pb.DeliberationSummary{
		DeliberationId: d.Requested.GetDeliberationId(),
		TaskId:         d.Requested.GetTaskId(),
		Role:           d.Requested.GetRequest().GetRole(),
		Pool:           d.Requested.GetPool(),
		Status:         string(d.State),
		Agents:         int32(len(d.Requested.GetRequest().GetAgents())),
		Attempts:       d.Attempts,
		SubmittedAt:    timestamp(d.Submitted),
		StartedAt:      timestamp(d.Started),
		EndedAt:        timestamp(d.Ended),
		Cluster:        d.Cluster,
		ErrorMessage:   d.Reason,
		Labels:         d.Requested.GetRequest().GetLabels(),
	}
}

// Job is an active deliberation in GetActiveJobs, as of a time of the journal's
// clock. Its fields are those of the Python service.
func (d *History) Job(now time.Time) *pb.JobInfo {
	id, since := d.Requested.GetDeliberationId(), d.Submitted
	if !d.Started.IsZero() {
		since = d.Started
	}
	return &pb.JobInfo{
		JobId:        id,
		Name:         "deliberation-" + id,
		Status:       string(d.State),
		SubmissionId: id,
		Role:         d.Requested.GetRequest().GetRole(),
		TaskId:       d.Requested.GetTaskId(),
		StartTime:    timestamp(since),
		Runtime:      max(0, now.Sub(since)).Round(time.Second).String(),
	}
}

// timestamp converts a time; nil for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
