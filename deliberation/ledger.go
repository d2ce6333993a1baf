package deliberation

import (
	"errors"
	"strings"
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
	open   map[string]slot
	queued int64
	pools  names
	// due is no later than the earliest deadline, oldest no higher than the
	// lowest sequence of what is open: without a look at each.
	due    int64
	oldest uint64
}

// NewLedger starts from a snapshot; nil stands for the empty journal.
func NewLedger(snapshot *pb.StatsSnapshot) *Ledger {
	ledger := &Ledger{open: make(map[string]slot, len(snapshot.GetOpen())), due: never, oldest: none}
	ledger.counts.Sequence = snapshot.GetSequence()
	ledger.counts.Total = snapshot.GetTotal()
	ledger.counts.Completed = snapshot.GetCompleted()
	ledger.counts.Failed = snapshot.GetFailed()
	ledger.counts.Cancelled = snapshot.GetCancelled()
	ledger.counts.Forgotten = snapshot.GetForgotten()
	ledger.counts.Timed = snapshot.GetTimed()
	ledger.counts.TimedMs = snapshot.GetTimedMs()
	ledger.counts.JournalCreated = snapshot.GetJournalCreated()
	for _, o := range snapshot.GetOpen() {
		open := slot{
			sequence: o.GetSequence(), submitted: o.GetSubmittedAt().AsTime().UnixNano(), pool: ledger.pools.number(o.GetPool()),
			timeout: int64(o.GetTimeoutSeconds()) * int64(time.Second), attempts: o.GetAttempts(),
		}
		if o.GetStartedAt() != nil {
			open.started = o.GetStartedAt().AsTime().UnixNano()
		}
		ledger.put(o.GetDeliberationId(), open)
	}
	return ledger
}

// Sequence is the last entry folded in.
func (l *Ledger) Sequence() uint64 { return l.counts.GetSequence() }

// ErrOtherLedger says that a ledger does not go on with the journal as it is: a
// newer one does.
var ErrOtherLedger = errors.New("the ledger does not go on from here")

// Created is when the journal was made that the ledger is of; zero for any.
func (l *Ledger) Created() time.Time {
	if l.counts.GetJournalCreated() == nil {
		return time.Time{}
	}
	return l.counts.GetJournalCreated().AsTime()
}

// Of says which journal the ledger is of.
func (l *Ledger) Of(created time.Time) { l.counts.JournalCreated = timestamp(created) }

// Resume has the ledger go on behind a sequence.
func (l *Ledger) Resume(sequence uint64) { l.counts.Sequence = sequence }

// put adds what is open.
func (l *Ledger) put(id string, open slot) {
	l.open[id] = open
	l.due, l.oldest = min(l.due, open.deadline()), min(l.oldest, open.sequence)
	if open.started == 0 {
		l.queued++
	}
}

// take removes what was open; ok is false where it is not.
func (l *Ledger) take(id string) (open slot, ok bool) {
	if open, ok = l.open[id]; !ok {
		return open, false
	}
	delete(l.open, id)
	if open.started == 0 {
		l.queued--
	}
	return open, true
}

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
		l.Forget(mark.DeliberationID) // an id is free again once the journal has forgotten it
		// The mark's strings are parts of a longer one, which must not be kept.
		l.put(strings.Clone(mark.DeliberationID), slot{
			sequence: mark.Sequence, submitted: mark.Time.UnixNano(), timeout: int64(mark.Timeout), pool: l.pools.number(mark.Qualifier),
		})
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
	open.attempts++
	if open.started == 0 {
		open.started = mark.Time.UnixNano()
		l.queued--
	}
	l.open[mark.DeliberationID] = open
}

// end closes an open deliberation: the first end counts, a later one finds
// none.
func (l *Ledger) end(mark Mark) {
	end := State(mark.Qualifier)
	if !end.Ended() {
		return
	}
	open, ok := l.take(mark.DeliberationID)
	if !ok {
		return
	}
	switch end {
	case Completed:
		l.counts.Completed++
	case Failed:
		l.counts.Failed++
	default:
		l.counts.Cancelled++
	}
	if end != Cancelled && open.started != 0 {
		l.counts.Timed++
		l.counts.TimedMs += (mark.Time.UnixNano() - open.started) / int64(time.Millisecond)
	}
}

// Forget counts an open deliberation as forgotten: the journal no longer holds
// its request, and nobody knows how it ended.
func (l *Ledger) Forget(id string) {
	if _, ok := l.take(id); ok {
		l.counts.Forgotten++
	}
}

// ForgetBefore forgets what was requested before the first sequence that the
// journal holds. Call it when the ledger has all that the journal holds: an end
// may be among that.
func (l *Ledger) ForgetBefore(first uint64) {
	if l.oldest >= first {
		return
	}
	l.oldest = none
	for id, open := range l.open {
		if open.sequence < first {
			l.Forget(id)
		} else {
			l.oldest = min(l.oldest, open.sequence)
		}
	}
}

// Stats tells the statistics.
func (l *Ledger) Stats() *pb.RayExecutorStats {
	stats := &pb.RayExecutorStats{
		TotalDeliberations:     l.counts.GetTotal(),
		ActiveDeliberations:    int64(len(l.open)),
		QueuedDeliberations:    l.queued,
		CompletedDeliberations: l.counts.GetCompleted(),
		FailedDeliberations:    l.counts.GetFailed(),
		CancelledDeliberations: l.counts.GetCancelled(),
		ForgottenDeliberations: l.counts.GetForgotten(),
	}
	if l.counts.GetTimed() > 0 {
		stats.AverageExecutionTimeMs = float32(float64(l.counts.GetTimedMs()) / float64(l.counts.GetTimed()))
	}
	return stats
}

// Snapshot tells the ledger whole, for NewLedger to start from.
func (l *Ledger) Snapshot() *pb.StatsSnapshot {
	snapshot := &pb.StatsSnapshot{
		Sequence: l.counts.GetSequence(), Total: l.counts.GetTotal(),
		Completed: l.counts.GetCompleted(), Failed: l.counts.GetFailed(), Cancelled: l.counts.GetCancelled(),
		Forgotten: l.counts.GetForgotten(), Timed: l.counts.GetTimed(), TimedMs: l.counts.GetTimedMs(),
		JournalCreated: l.counts.GetJournalCreated(),
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
