package deliberation

import (
	"cmp"
	"maps"
	"slices"
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Kind is what happened, as the second token of a journal subject says it.
type Kind string

// The kinds. Several Starteds may stand in a story, one an attempt; of the
// others each is there once.
const (
	KindRequested Kind = "requested"
	KindStarted   Kind = "started"
	KindAgent     Kind = "agent"
	KindDone      Kind = "done"
)

// Mark is an entry of the journal without its data: all that statistics and
// deadlines need, and cheap to read in bulk.
type Mark struct {
	Sequence uint64
	Time     time.Time
	Kind     Kind
	// Qualifier is the pool, the agent's place, or the end.
	Qualifier      string
	DeliberationID string
	// Timeout is set on KindRequested.
	Timeout time.Duration
}

// Open is a deliberation that has not ended.
type Open struct {
	ID   string
	Pool string
	// Sequence is that of its request.
	Sequence  uint64
	Submitted time.Time
	Timeout   time.Duration
	// Started is zero while it is queued.
	Started  time.Time
	Attempts int32
}

// Deadline is when it must have ended, on the journal's clock.
func (o Open) Deadline() time.Time { return o.Submitted.Add(o.Timeout) }

// Ledger is the fold of the whole journal: the statistics, and what is open.
// Its size grows with what is open, never with history. It is not safe for
// concurrent use.
type Ledger struct {
	counts pb.StatsSnapshot
	open   map[string]Open
}

// NewLedger starts from a snapshot; nil stands for the empty journal.
func NewLedger(snapshot *pb.StatsSnapshot) *Ledger {
	ledger := &Ledger{open: make(map[string]Open, len(snapshot.GetOpen()))}
	ledger.counts.Sequence = snapshot.GetSequence()
	ledger.counts.Total = snapshot.GetTotal()
	ledger.counts.Completed = snapshot.GetCompleted()
	ledger.counts.Failed = snapshot.GetFailed()
	ledger.counts.Cancelled = snapshot.GetCancelled()
	ledger.counts.Timed = snapshot.GetTimed()
	ledger.counts.TimedMs = snapshot.GetTimedMs()
	for _, o := range snapshot.GetOpen() {
		open := Open{
			ID: o.GetDeliberationId(), Pool: o.GetPool(), Sequence: o.GetSequence(),
			Submitted: o.GetSubmittedAt().AsTime(),
			Timeout:   time.Duration(o.GetTimeoutSeconds()) * time.Second,
			Attempts:  o.GetAttempts(),
		}
		if o.GetStartedAt() != nil {
			open.Started = o.GetStartedAt().AsTime()
		}
		ledger.open[open.ID] = open
	}
	return ledger
}

// Sequence is the last entry folded in.
func (l *Ledger) Sequence() uint64 { return l.counts.GetSequence() }

// Apply folds one more entry. One that was folded before is passed over, so
// reading on from an older place is harmless.
func (l *Ledger) Apply(mark Mark) {
	if mark.Sequence <= l.counts.GetSequence() {
		return
	}
	l.counts.Sequence = mark.Sequence
	switch mark.Kind {
	case KindRequested:
		l.counts.Total++
		l.open[mark.DeliberationID] = Open{
			ID: mark.DeliberationID, Pool: mark.Qualifier, Sequence: mark.Sequence,
			Submitted: mark.Time, Timeout: mark.Timeout,
		}
	case KindStarted:
		l.start(mark)
	case KindDone:
		l.end(mark)
	case KindAgent:
	}
}

// start marks an open deliberation as running; a start after the end finds
// none.
func (l *Ledger) start(mark Mark) {
	open, ok := l.open[mark.DeliberationID]
	if !ok {
		return
	}
	open.Attempts++
	if open.Started.IsZero() {
		open.Started = mark.Time
	}
	l.open[mark.DeliberationID] = open
}

// end closes an open deliberation: the first end counts, a later one finds
// none.
func (l *Ledger) end(mark Mark) {
	open, ok := l.open[mark.DeliberationID]
	end := State(mark.Qualifier)
	if !ok || !end.Ended() {
		return
	}
	delete(l.open, mark.DeliberationID)
	switch end {
	case Completed:
		l.counts.Completed++
	case Failed:
		l.counts.Failed++
	default:
		l.counts.Cancelled++
	}
	if end != Cancelled && !open.Started.IsZero() {
		l.counts.Timed++
		l.counts.TimedMs += mark.Time.Sub(open.Started).Milliseconds()
	}
}

// Stats tells the statistics.
func (l *Ledger) Stats() *pb.RayExecutorStats {
	stats := &pb.RayExecutorStats{
		TotalDeliberations:     l.counts.GetTotal(),
		ActiveDeliberations:    int64(len(l.open)),
		CompletedDeliberations: l.counts.GetCompleted(),
		FailedDeliberations:    l.counts.GetFailed(),
		CancelledDeliberations: l.counts.GetCancelled(),
	}
	for _, open := range l.open {
		if open.Started.IsZero() {
			stats.QueuedDeliberations++
		}
	}
	if l.counts.GetTimed() > 0 {
		stats.AverageExecutionTimeMs = float32(float64(l.counts.GetTimedMs()) / float64(l.counts.GetTimed()))
	}
	return stats
}

// Open returns what has not ended, the oldest first.
func (l *Ledger) Open() []Open {
	return slices.SortedFunc(maps.Values(l.open), bySequence)
}

func bySequence(a, b Open) int { return cmp.Compare(a.Sequence, b.Sequence) }

// Overdue returns what should have ended by a time on the journal's clock, the
// oldest first.
func (l *Ledger) Overdue(now time.Time) (overdue []Open) {
	for _, open := range l.open { // looked at often: only what is found is sorted
		if now.After(open.Deadline()) {
			overdue = append(overdue, open)
		}
	}
	slices.SortFunc(overdue, bySequence)
	return overdue
}

// Snapshot tells the ledger whole, for NewLedger to start from.
func (l *Ledger) Snapshot() *pb.StatsSnapshot {
	snapshot := &pb.StatsSnapshot{
		Sequence: l.counts.GetSequence(), Total: l.counts.GetTotal(),
		Completed: l.counts.GetCompleted(), Failed: l.counts.GetFailed(), Cancelled: l.counts.GetCancelled(),
		Timed: l.counts.GetTimed(), TimedMs: l.counts.GetTimedMs(),
	}
	for _, open := range l.Open() {
		snapshot.Open = append(snapshot.Open, &pb.StatsSnapshot_Open{
			DeliberationId: open.ID, Pool: open.Pool, Sequence: open.Sequence,
			SubmittedAt: timestamp(open.Submitted), TimeoutSeconds: int32(open.Timeout / time.Second),
			StartedAt: timestamp(open.Started), Attempts: open.Attempts,
		})
	}
	return snapshot
}
