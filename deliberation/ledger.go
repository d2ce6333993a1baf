package deliberation

import (
	"errors"
	"slices"
	"strings"
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Kind is the kind of an event, which is the second token of its journal subject.
type Kind string

// The kinds. A history has one start per attempt. Every other event exists once:
// one request, one end, one result per agent.
const (
	KindRequested Kind = "requested"
	KindStarted   Kind = "started"
	KindAgent     Kind = "agent"
	KindDone      Kind = "done"
)

// Mark is an entry of the journal without its data. It has all that statistics and
// deadlines need, and is cheap to read in bulk: the server sends only headers.
type Mark struct {
	Sequence uint64
	Time     time.Time
	Kind     Kind
	// Qualifier is the pool, the agent's index, or the end.
	Qualifier      string
	DeliberationID string
	// Timeout and Tenant are set on KindRequested only.
	Timeout time.Duration
	Tenant  string
	// Usage is set on KindDone only, and nil if the end does not have it. Models is
	// the same by model, as far as the end has it.
	Usage  *pb.Usage
	Models []*pb.StatsSnapshot_Model
}

// Open is a deliberation that has not ended.
type Open struct {
	ID     string
	Pool   string
	Tenant string
	// Sequence is that of its request.
	Sequence  uint64
	Submitted time.Time
	Timeout   time.Duration
	// Started is zero while it is queued.
	Started  time.Time
	Attempts int32
}

// Deadline is the time by which it must have ended, on the journal's clock. It
// counts from the acceptance, so it includes the time in the queue.
func (o Open) Deadline() time.Time { return o.Submitted.Add(o.Timeout) }

// Ledger is the fold of the whole journal: the statistics, and the open
// deliberations. Its size depends on the number of open ones, never on the length of
// the journal. It is not safe for concurrent use.
//
// It is in this package, beside History, because both fold the same events, and
// the journal, the keeper and the functions all use it.
type Ledger struct {
	counts pb.StatsSnapshot
	// open has the open deliberations by their id, queued those of them that no
	// worker has started.
	open    map[string]slot
	queued  int64
	pools   names
	tenants names
	// due is a lower bound of all deadlines, oldest a lower bound of the sequences
	// of the open ones. They spare a scan of all open ones. An end does not raise
	// them; the next scan does.
	due    int64
	oldest uint64
	// totals are not in counts until the ledger is stored.
	totals totals
}

// NewLedger starts from a snapshot; nil is the empty journal.
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
	ledger.counts.Usage = addUsage(nil, snapshot.GetUsage())
	ledger.totals = newTotals(snapshot)
	// A newer version may count more. Stored again, its sums miss only what this
	// version counts.
	ledger.counts.ProtoReflect().SetUnknown(slices.Clone(snapshot.ProtoReflect().GetUnknown()))
	for _, o := range snapshot.GetOpen() {
		ledger.putMessage(o)
	}
	return ledger
}

// Sequence is the sequence of the last applied mark.
func (l *Ledger) Sequence() uint64 { return l.counts.GetSequence() }

// ErrOtherLedger is the error for a ledger that cannot be continued with the
// journal. The caller must load the ledger again.
var ErrOtherLedger = errors.New("the ledger cannot be continued with this journal")

// Created is when the ledger's journal was created; zero if it is not known. It
// identifies the journal.
func (l *Ledger) Created() time.Time {
	if l.counts.GetJournalCreated() == nil {
		return time.Time{}
	}
	return l.counts.GetJournalCreated().AsTime()
}

// SetCreated records when the ledger's journal was created.
func (l *Ledger) SetCreated(created time.Time) { l.counts.JournalCreated = timestamp(created) }

// Resume continues the ledger after a sequence, without the marks up to it.
func (l *Ledger) Resume(sequence uint64) { l.counts.Sequence = sequence }

// put adds an open deliberation.
func (l *Ledger) put(id string, open slot) {
	l.open[id] = open
	l.due, l.oldest = min(l.due, open.deadline()), min(l.oldest, open.sequence)
	if open.started == 0 {
		l.queued++
	}
	l.pool(open).opened(open)
}

// take removes an open deliberation; ok is false if it is not open.
func (l *Ledger) take(id string) (open slot, ok bool) {
	if open, ok = l.open[id]; !ok {
		return open, false
	}
	delete(l.open, id)
	if open.started == 0 {
		l.queued--
	}
	l.pool(open).closed(open)
	return open, true
}

// pool returns the totals of an open deliberation's pool.
func (l *Ledger) pool(open slot) *poolTotals {
	for number := len(l.totals.numbered); number <= int(open.pool); number++ {
		l.totals.numbered = append(l.totals.numbered, l.totals.pool(l.pools.all[number]))
	}
	return l.totals.numbered[open.pool]
}

// Apply applies one more mark. Marks must come in the order of their sequence. A
// mark that is not after the last one is ignored, so reading again from an earlier
// sequence is harmless.
func (l *Ledger) Apply(mark Mark) {
	if mark.Sequence <= l.counts.GetSequence() {
		return
	}
	// Foreign messages advance the sequence too, or CatchUp would wait for them.
	l.counts.Sequence = mark.Sequence
	switch mark.Kind {
	case KindRequested:
		l.counts.Total++
		l.Forget(mark.DeliberationID) // the journal no longer holds an earlier deliberation of this id
		// The id is a part of the subject: a clone does not retain the whole of it.
		l.put(strings.Clone(mark.DeliberationID), slot{
			sequence: mark.Sequence, submitted: mark.Time.UnixNano(), timeout: int64(mark.Timeout), pool: l.pools.number(mark.Qualifier), tenant: l.tenants.number(mark.Tenant),
		})
	case KindStarted:
		l.start(mark)
	case KindDone:
		l.end(mark)
	case KindAgent: // the statistics count deliberations, not agents
	}
}

// start marks an open deliberation as running. A start after the end is ignored: a
// worker that was paused may write one.
func (l *Ledger) start(mark Mark) {
	open, ok := l.open[mark.DeliberationID]
	if !ok {
		return
	}
	open.attempts++
	if open.started == 0 {
		l.pool(open).closed(open)
		open.started = mark.Time.UnixNano()
		l.pool(open).opened(open)
		l.totals.queue.observe(time.Duration(open.started - open.submitted))
		l.queued--
	}
	l.open[mark.DeliberationID] = open
}

// end closes an open deliberation. The first end counts; there is no second one
// unless messages were written without the compare-and-set.
func (l *Ledger) end(mark Mark) {
	end := State(mark.Qualifier)
	if !end.Ended() {
		return
	}
	open, ok := l.take(mark.DeliberationID)
	if !ok {
		return
	}
	addUsage(l.counts.GetUsage(), mark.Usage)
	for _, used := range mark.Models {
		l.totals.use(used.GetModel(), used.GetUsage())
	}
	l.pool(open).end(end, mark.Time.UnixNano()+int64(lateMargin) >= open.deadline())
	switch end {
	case Completed:
		l.counts.Completed++
	case Failed:
		l.counts.Failed++
	default:
		l.counts.Cancelled++
	}
	// A cancelled one, or one that never ran, would distort the average duration.
	if end != Cancelled && open.started != 0 {
		l.totals.execution.observe(time.Duration(mark.Time.UnixNano() - open.started))
		l.counts.Timed++
		l.counts.TimedMs += (mark.Time.UnixNano() - open.started) / int64(time.Millisecond)
	}
}

// Forget counts an open deliberation as forgotten: the journal no longer holds its
// request, so it can neither be run nor ended.
func (l *Ledger) Forget(id string) {
	if _, ok := l.take(id); ok {
		l.counts.Forgotten++
	}
}

// ForgetBefore forgets the deliberations that were requested before the journal's
// first sequence. Call it only after a catch-up: the journal may still hold their
// ends, which must be applied first.
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

// Stats returns the statistics, in constant time.
func (l *Ledger) Stats() *pb.RayExecutorStats {
	stats := &pb.RayExecutorStats{
		TotalDeliberations:     l.counts.GetTotal(),
		ActiveDeliberations:    int64(len(l.open)),
		QueuedDeliberations:    l.queued,
		CompletedDeliberations: l.counts.GetCompleted(),
		FailedDeliberations:    l.counts.GetFailed(),
		CancelledDeliberations: l.counts.GetCancelled(),
		ForgottenDeliberations: l.counts.GetForgotten(),
		PromptTokens:           l.counts.GetUsage().GetPromptTokens(),
		CompletionTokens:       l.counts.GetUsage().GetCompletionTokens(),
		CachedTokens:           l.counts.GetUsage().GetCachedTokens(),
		ModelRequests:          l.counts.GetUsage().GetRequests(),
	}
	if l.counts.GetTimed() > 0 {
		stats.AverageExecutionTimeMs = float32(float64(l.counts.GetTimedMs()) / float64(l.counts.GetTimed()))
	}
	return stats
}
