package deliberation

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "rayexecutor/proto/ray_executor/v1"
)

// State is where a deliberation stands, in the words of the `status` field.
type State string

// The states. A deliberation is Queued until a worker starts it and has
// exactly one end: Completed, Failed or Cancelled.
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
	// Sequence is the event's place in the journal.
	Sequence uint64
	// Time is the journal's own, the only clock that deadlines count by.
	Time time.Time
	// Event is one of the messages of events.proto.
	Event proto.Message
	// Unreadable reports that the journal's message could not be read: the event
	// has no more than its subject tells.
	Unreadable bool
}

// Query says which deliberations a page of a list holds.
type Query struct {
	// Before is the journal sequence that the page's requests stand before; 0
	// for the newest.
	Before uint64
	// Size is the most that a page holds.
	Size int
	// Pool, TaskID and State are empty for all.
	Pool   string
	TaskID string
	State  State
}

// History is the fold of one deliberation's entries. The zero value is
// one that nobody has asked for.
type History struct {
	// Requested is nil while the state is Unknown, and where the journal no
	// longer keeps the beginning.
	Requested *pb.DeliberationRequested
	State     State
	// Attempts is how often a worker has started it.
	Attempts  int32
	Cluster   string
	Submitted time.Time
	Started   time.Time
	Ended     time.Time
	// Reason is why it failed or was cancelled.
	Reason string
	// DeadLetter reports that it failed because too many workers were lost with it.
	DeadLetter bool
	// Sequence is the last entry folded in.
	Sequence uint64
	// Unreadable reports that its request could not be read.
	Unreadable bool

	agents map[int32]*pb.DeliberationResult
	ending []*pb.DeliberationResult
}

// Fold folds entries, which are in the order of the journal.
func Fold(entries []Entry) *History {
	d := &History{State: Unknown}
	for _, entry := range entries {
		d.apply(entry)
	}
	return d
}

// apply takes one more entry. What comes after the end is ignored: a worker
// that was paused and comes back late changes nothing.
func (d *History) apply(entry Entry) {
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
		d.agents[event.GetAgentIndex()] = event.GetResult()
	case *pb.DeliberationCompleted:
		d.end(Completed, entry.Time, event.GetResults(), "")
	case *pb.DeliberationFailed:
		d.end(Failed, entry.Time, event.GetResults(), event.GetErrorMessage())
		d.DeadLetter = event.GetGivenUp()
	case *pb.DeliberationCancelled:
		d.end(Cancelled, entry.Time, event.GetResults(), event.GetReason())
	}
}

// request takes the acceptance. A start that stands before it in the journal
// is not undone.
func (d *History) request(event *pb.DeliberationRequested, entry Entry) {
	if d.Requested != nil {
		return
	}
	d.Requested, d.Submitted, d.Unreadable = event, entry.Time, entry.Unreadable
	if d.State == Unknown {
		d.State = Queued
	}
}

func (d *History) start(event *pb.DeliberationStarted, at time.Time) {
	d.State, d.Attempts, d.Cluster = Running, event.GetAttempt(), event.GetCluster()
	switch first := event.GetFirstStartedAt(); {
	case first != nil:
		d.Started = first.AsTime()
	case d.Started.IsZero():
		d.Started = at
	}
}

func (d *History) end(state State, at time.Time, results []*pb.DeliberationResult, reason string) {
	d.State, d.Ended, d.ending, d.Reason = state, at, results, reason
}

// Recorded returns the result of the agent at a place in the request, nil
// while it has none.
func (d *History) Recorded(index int) *pb.DeliberationResult { return d.agents[int32(index)] }

// Results returns one result an agent that has one, in the order of the
// request.
func (d *History) Results() []*pb.DeliberationResult {
	if d.State.Ended() && len(d.ending) > 0 {
		return d.ending
	}
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

// Proposed reports whether an agent completed: its result carries no error.
func Proposed(result *pb.DeliberationResult) bool {
	return result != nil && result.GetMetadata()["error"] == ""
}

// Status tells the deliberation as GetDeliberationStatus answers it.
func (d *History) Status(id string) *pb.GetDeliberationStatusResponse {
	if d.State == Unknown {
		return &pb.GetDeliberationStatusResponse{
			DeliberationId: id, Status: string(Unknown),
			ErrorMessage: "no such deliberation: check the id; the journal keeps a deliberation for a limited time",
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
	}
	if i := slices.IndexFunc(response.GetResults(), Proposed); i >= 0 {
		response.Result = response.GetResults()[i]
	}
	return response
}

// Summary tells the deliberation as ListDeliberations answers it.
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
	}
}

// Job tells an active deliberation as GetActiveJobs answers it, at a time.
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

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
