package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Entry is a message of the journal.
type Entry struct {
	Sequence uint64
	At       time.Time
	// Qualifier is the pool, the agent's place, or how it ended.
	Qualifier string
	Event     proto.Message
}

// Story is all that the journal holds of one deliberation, in its order.
type Story struct {
	Requested, Started, Agents, Ends []Entry
}

// Announcement is what the Orchestrator heard.
type Announcement struct {
	Subject, ID string
}

// Evidence is what a run is judged by: what callers were told, what the journal
// holds, what was announced, what the models were asked, what the statistics
// say, and when what was broken.
type Evidence struct {
	Outcomes  map[string]*Outcome
	Stories   map[string]*Story
	Announced map[string][]Announcement
	Calls     map[string]map[string][]Call
	Stats     []*pb.RayExecutorStats
	Windows   []Window
	// First is the journal's first sequence; what was before is evicted.
	First uint64
	// Gaps are what was evicted while no keeper ran, in their order.
	Gaps []Gap
	// Vanished are messages that the journal had, and has lost before their age.
	Vanished []string
	// Journals are what each NATS server says of its own.
	Journals []string
}

func (e *Evidence) announced(subject string, data []byte) error {
	var event struct {
		ID      string `json:"id"`
		Subject string `json:"subject"`
	}
	if err := json.Unmarshal(data, &event); err != nil {
		return fmt.Errorf("an announcement on %s: %w", subject, err)
	}
	e.Announced[event.Subject] = append(e.Announced[event.Subject], Announcement{Subject: subject, ID: event.ID})
	return nil
}

// Verdict is what Check found.
type Verdict struct {
	// Broken are the promises that were broken, each in a sentence.
	Broken []string
	// Lost and Double are the deliberations that were, and the agents that a
	// model answered more than once, each with its kinds of faults.
	Lost, Double map[Kind]int

	// Unheld and Stored are the requests whose callers got no answer: those that
	// the journal does not hold, and those that it does. So accepted and stored
	// ones are as many as there are ends.
	Accepted, Stored, Unheld, Refused int
	Ends                              map[string]int
	GivenUp, AtDeadline               int
	// AskedTwice counts agents that had been answered, AskedAnew those whose
	// caller had gone before.
	Agents, AskedTwice, AskedAnew, Attempts int
	AnnouncedTwice                          int
	LostAll                                 int
	// Forgotten are the deliberations that the journal evicted without an end.
	// Unheard are the ends that it evicted before a keeper could announce them.
	Forgotten, Unheard int
	// Recount is what the statistics must be.
	Recount *pb.RayExecutorStats
}

func (v *Verdict) brokenf(format string, args ...any) {
	v.Broken = append(v.Broken, fmt.Sprintf(format, args...))
}

// Check holds the promises against the evidence.
func (e *Evidence) Check() *Verdict {
	v := &Verdict{Lost: map[Kind]int{}, Double: map[Kind]int{}, Ends: map[string]int{}}
	for _, id := range slices.Sorted(maps.Keys(e.Outcomes)) {
		e.checkOutcome(v, e.Outcomes[id])
	}
	for _, id := range slices.Sorted(maps.Keys(e.Stories)) {
		if e.Outcomes[id] == nil {
			v.brokenf("%s is in the journal, and nobody asked for it", id)
			continue
		}
		e.checkStory(v, id, e.Stories[id])
	}
	for id := range e.Announced {
		if e.Stories[id] == nil {
			v.brokenf("%s was announced, and the journal knows nothing of it", id)
		}
	}
	e.checkStats(v)
	for _, vanished := range e.Vanished {
		v.brokenf("the journal had message %s, and has lost it", vanished)
	}
	for i, state := range e.Journals {
		if state != e.Journals[0] {
			v.brokenf("NATS server %d holds another journal than server 0: %s, not %s", i, state, e.Journals[0])
		}
	}
	return v
}

// checkOutcome holds what a caller was told against the journal.
func (e *Evidence) checkOutcome(v *Verdict, o *Outcome) {
	id, story := o.Ask.ID, e.Stories[o.Ask.ID]
	switch {
	case o.Accepted && story == nil:
		v.brokenf("%s was accepted, and the journal does not hold it", id)
		v.LostAll++
		e.blame(v.Lost, o.ToldAt, o.ToldAt, anyKind)
		return
	case o.Accepted:
		v.Accepted++
	case o.Refused != 0:
		v.Refused++
		if story != nil && !o.Unknown {
			v.brokenf("%s was refused with %d, and the journal holds it", id, o.Refused)
		}
	case !o.Unknown:
		v.brokenf("%s: the caller was told nothing", id)
	case story == nil:
		v.Unheld++
	default:
		v.Stored++
	}
	if o.Ask.Bad && (o.Refused != 400 && !o.Unknown || o.Accepted) {
		v.brokenf("%s is malformed, and was answered %d", id, o.Refused)
	}
	if !o.Ask.Bad && o.Refused != 0 {
		v.brokenf("%s is good, and was refused with %d", id, o.Refused)
	}
	if o.Twin != 0 && o.Twin != 422 {
		v.brokenf("another request for %s was answered %d", id, o.Twin)
	}
	if story != nil && len(story.Ends) > 0 {
		e.checkTold(v, o, story)
	}
}

// propagation is how much older than its acknowledgement a message's time in
// the journal may be.
const propagation = 5 * time.Second

// checkTold holds the answers to cancels and statuses against the end.
func (e *Evidence) checkTold(v *Verdict, o *Outcome, story *Story) {
	end := story.Ends[0]
	if o.Cancelled != "" && o.Cancelled != end.Qualifier {
		v.brokenf("%s: a cancel was answered %q, and the end is %q", o.Ask.ID, o.Cancelled, end.Qualifier)
	}
	switch ended := deliberation.State(o.Told).Ended(); {
	case o.Told == "":
	case ended && o.Told != end.Qualifier:
		v.brokenf("%s: its status was %q, and the end is %q", o.Ask.ID, o.Told, end.Qualifier)
	case !ended && o.ToldAt.After(end.At.Add(propagation)) && e.outage(end.At, o.ToldAt) == 0:
		v.brokenf("%s: its status was %q, %s after its end", o.Ask.ID, o.Told, o.ToldAt.Sub(end.At))
	case o.Told == "not_found":
		v.brokenf("%s was accepted, and its status is %q", o.Ask.ID, o.Told)
	}
}

// checkStory holds one deliberation's story against the promises.
func (e *Evidence) checkStory(v *Verdict, id string, story *Story) {
	if len(story.Requested) != 1 {
		v.brokenf("%s was accepted %d times", id, len(story.Requested))
		return
	}
	v.Attempts += len(story.Started)
	if len(story.Ends) == 0 && e.mayForget(story.Requested[0]) {
		v.Forgotten++
		if len(e.Announced[id]) > 0 {
			v.brokenf("%s was evicted without an end, and its end was announced", id)
		}
		return
	}
	if len(story.Ends) != 1 {
		v.brokenf("%s has %d ends", id, len(story.Ends))
		if len(story.Ends) == 0 {
			v.LostAll++
			e.blame(v.Lost, story.Requested[0].At, story.Requested[0].At.Add(e.Outcomes[id].Ask.Timeout), anyKind)
		}
		return
	}
	end := story.Ends[0]
	v.Ends[end.Qualifier]++
	for i, started := range story.Started {
		if n := started.Event.(*pb.DeliberationStarted).GetAttempt(); int(n) != i+1 {
			v.brokenf("%s: attempt %d is numbered %d", id, i+1, n)
		}
	}
	e.checkAnnounced(v, id, end)
	e.checkResults(v, id, story)
	e.checkDeadline(v, id, story)
	e.checkCalls(v, id, story)
}

// mayForget reports whether a request was evicted, and no keeper ran from its
// deadline on.
func (e *Evidence) mayForget(requested Entry) bool {
	timeout := time.Duration(requested.Event.(*pb.DeliberationRequested).GetTimeoutSeconds()) * time.Second
	return e.evicted(requested.Sequence, requested.At.Add(timeout))
}

// evicted reports whether a message was evicted while no keeper ran, and no
// keeper can have handled what was due at a moment.
func (e *Evidence) evicted(sequence uint64, due time.Time) bool {
	if sequence >= e.First {
		return false
	}
	return slices.ContainsFunc(e.Windows, func(w Window) bool {
		return w.Kind == Expire && due.After(w.From.Add(-recovery)) && due.Before(w.Until)
	})
}

func (e *Evidence) checkAnnounced(v *Verdict, id string, end Entry) {
	told := e.Announced[id]
	switch {
	case len(told) > 0:
	case e.evicted(end.Sequence, end.At):
		v.Unheard++
	default:
		v.brokenf("the end of %s was not announced", id)
	}
	if len(told) > 1 {
		v.AnnouncedTwice++
	}
	want := Announcement{Subject: events.AnnouncementSubject(deliberation.State(end.Qualifier)), ID: events.DoneEventID(id)}
	for _, a := range told {
		if a != want {
			v.brokenf("%s was announced as %+v, not %+v", id, a, want)
		}
	}
}

// results are those that an end tells.
type results interface {
	GetResults() []*pb.DeliberationResult
}

// checkResults holds an end's results against the agents' records: what stood
// before the end is in it as it stands.
func (e *Evidence) checkResults(v *Verdict, id string, story *Story) {
	end := story.Ends[0]
	told := map[string]*pb.DeliberationResult{}
	for _, result := range end.Event.(results).GetResults() {
		told[result.GetAgentId()] = result
	}
	failed, isFailed := end.Event.(*pb.DeliberationFailed)
	givenUp := isFailed && strings.Contains(failed.GetErrorMessage(), "given up")
	if givenUp {
		v.GivenUp++
	}
	seen := map[string]bool{}
	for _, record := range story.Agents {
		if seen[record.Qualifier] {
			v.brokenf("%s: agent %s is recorded twice", id, record.Qualifier)
		}
		seen[record.Qualifier] = true
		if record.Sequence > end.Sequence {
			continue // too late: ignored
		}
		want := record.Event.(*pb.AgentCompleted).GetResult()
		got := told[want.GetAgentId()]
		switch {
		case got == nil && end.Qualifier == "cancelled":
			// It was recorded between the cancel's look and its end.
		case got == nil:
			v.brokenf("%s: the end tells nothing of %s, which is recorded", id, want.GetAgentId())
		case got.GetProposal() != want.GetProposal() || got.GetMetadata()["status"] != want.GetMetadata()["status"]:
			if e.cutOff(got, story) {
				continue
			}
			v.brokenf("%s: of %s the record says %v, and the end %v", id, want.GetAgentId(), want, got)
		}
	}
	if end.Qualifier != "cancelled" && len(told) != len(e.Outcomes[id].Ask.Models) {
		v.brokenf("%s: of %d agents the end tells %d", id, len(e.Outcomes[id].Ask.Models), len(told))
	}
	if proposed := slices.ContainsFunc(slices.Collect(maps.Values(told)), deliberation.Proposed); end.Qualifier == "completed" != proposed && end.Qualifier != "cancelled" {
		v.brokenf("%s is %s, and an agent completed: %t", id, end.Qualifier, proposed)
	}
}

// cutOff reports whether a result says that the time was over before it came:
// its record and the end were then written at the same moment.
func (e *Evidence) cutOff(result *pb.DeliberationResult, story *Story) bool {
	kind := result.GetMetadata()["error_type"]
	timeout := story.Requested[0].Event.(*pb.DeliberationRequested).GetTimeoutSeconds()
	late := story.Ends[0].At.Sub(story.Requested[0].At) >= time.Duration(timeout)*time.Second
	return late && kind == string(deliberation.TimedOut)
}

const (
	// grace is what the keeper leaves the workers, how often it looks, and
	// what two busy processors take.
	grace = 2*time.Second + time.Second + 4*time.Second
	// recovery is how long NATS, and who uses it, may take after an outage.
	recovery = 20 * time.Second
)

// checkDeadline holds the end's time against the deadline, both the journal's.
func (e *Evidence) checkDeadline(v *Verdict, id string, story *Story) {
	timeout := time.Duration(story.Requested[0].Event.(*pb.DeliberationRequested).GetTimeoutSeconds()) * time.Second
	deadline, end := story.Requested[0].At.Add(timeout), story.Ends[0].At
	if !end.Before(deadline) {
		v.AtDeadline++
	}
	late := end.Sub(deadline)
	if allowed := grace + e.outage(deadline.Add(-recovery), end); late > allowed {
		v.brokenf("%s ended %s after its deadline; %s are excused", id, late, allowed)
	}
	if failed, ok := story.Ends[0].Event.(*pb.DeliberationFailed); ok && late < 0 && strings.HasPrefix(failed.GetErrorMessage(), "timed out") {
		v.brokenf("%s timed out %s before its deadline", id, -late)
	}
}

// outage is how long NATS was not itself, or the keepers ended a backlog, between
// two moments, with the time to recover after each.
func (e *Evidence) outage(from, until time.Time) time.Duration {
	var sum time.Duration
	for _, w := range e.Windows {
		switch w.Kind {
		case KillNATS, KillNATSLeader, PauseNATSLeader, SplitNATS, KillAllNATS, Backlog, Expire:
			if begin, end := later(w.From, from), earlier(w.Until.Add(recovery), until); end.After(begin) {
				sum += end.Sub(begin)
			}
		default:
		}
	}
	return sum
}

// inFlight is how long a call may be under way to the model.
const inFlight = 2 * time.Second

// checkCalls holds what the model was asked against the agents' records: what
// is recorded is not asked again. An attempt that was under way when another
// one's record came may go on; one that starts later must not ask.
func (e *Evidence) checkCalls(v *Verdict, id string, story *Story) {
	records := map[string]Entry{}
	for _, record := range story.Agents {
		records[record.Qualifier] = record
	}
	for i := range e.Outcomes[id].Ask.Models {
		calls := e.Calls[id]["a"+strconv.Itoa(i)]
		v.Agents++
		e.countTwice(v, calls)
		record, recorded := records[strconv.Itoa(i)]
		if !recorded {
			continue
		}
		for _, call := range calls {
			if !call.At.After(record.At) {
				continue
			}
			before, between := 0, 0
			for _, started := range story.Started {
				switch {
				case started.Sequence < record.Sequence:
					before++
				case started.At.Before(call.At):
					between++
				}
			}
			if before < 2 && (between > 0 || call.At.After(record.At.Add(inFlight))) {
				v.brokenf("%s: agent %d was asked %s after its record", id, i, call.At.Sub(record.At))
			}
		}
	}
}

// doubles are the kinds that may have an agent asked again after its answer:
// those that keep a worker from recording it. Function servers and keepers have
// no part in that, nor has a model that has answered.
func doubles(kind Kind) bool {
	switch kind {
	case CutWorkers, MuteWorkers, ResetWorkers, SlowWorkers, NarrowWorkers:
		return true
	default:
		return slices.ContainsFunc(tracks, func(t track) bool {
			return (t.name == "nats" || t.name == "ray") && slices.ContainsFunc(t.kinds, func(c choice) bool { return c.kind == kind })
		})
	}
}

func anyKind(Kind) bool { return true }

// countTwice counts an agent that was asked again although a model had
// answered, or was at it.
func (e *Evidence) countTwice(v *Verdict, calls []Call) {
	for i, call := range calls[:max(0, len(calls)-1)] {
		switch {
		case call.Answered:
			v.AskedTwice++
			e.blame(v.Double, call.At, calls[i+1].At, doubles)
			return
		case call.Left:
			v.AskedAnew++
			return
		}
	}
}

// blame counts for each kind of fault that there was between two moments, and
// that may have to do with it.
func (e *Evidence) blame(count map[Kind]int, from, until time.Time, may func(Kind) bool) {
	blamed := map[Kind]bool{}
	for _, w := range e.Windows {
		if w.From.Before(until) && w.Until.After(from) && !blamed[w.Kind] && may(w.Kind) {
			blamed[w.Kind] = true
			count[w.Kind]++
		}
	}
}

// counted reports whether the statistics have a message.
func (e *Evidence) counted(sequence uint64) bool {
	return !slices.ContainsFunc(e.Gaps, func(g Gap) bool { return sequence > g.Snapshot && sequence < g.First })
}

// recount counts the journal's deliberations without the ledger's code.
func (e *Evidence) recount() *pb.RayExecutorStats {
	want := &pb.RayExecutorStats{}
	for _, story := range e.Stories {
		if len(story.Requested) == 0 || !e.counted(story.Requested[0].Sequence) {
			continue
		}
		want.TotalDeliberations++
		switch {
		case len(story.Ends) > 0 && e.counted(story.Ends[0].Sequence):
			countUsage(want, story.Ends[0].Event)
			switch story.Ends[0].Qualifier {
			case "completed":
				want.CompletedDeliberations++
			case "failed":
				want.FailedDeliberations++
			case "cancelled":
				want.CancelledDeliberations++
			}
		case story.Requested[0].Sequence < e.First:
			want.ForgottenDeliberations++
		default:
			want.ActiveDeliberations++
		}
	}
	return want
}

// countUsage adds what an end says of its model calls.
func countUsage(want *pb.RayExecutorStats, end proto.Message) {
	of, ok := end.(interface{ GetUsage() *pb.Usage })
	if !ok {
		return
	}
	want.PromptTokens += of.GetUsage().GetPromptTokens()
	want.CompletionTokens += of.GetUsage().GetCompletionTokens()
	want.CachedTokens += of.GetUsage().GetCachedTokens()
	want.ModelRequests += of.GetUsage().GetRequests()
}

// checkStats holds the statistics against a recount.
func (e *Evidence) checkStats(v *Verdict) {
	want := e.recount()
	v.Recount = want
	if !e.statsEqual(want) {
		v.brokenf("the statistics are %v; the journal says %v", e.Stats, want)
	}
}

// statsEqual reports whether every function server's statistics are as
// recounted.
func (e *Evidence) statsEqual(want *pb.RayExecutorStats) bool {
	return !slices.ContainsFunc(e.Stats, func(stats *pb.RayExecutorStats) bool {
		got := proto.CloneOf(stats)
		got.AverageExecutionTimeMs, got.QueuedDeliberations = 0, 0
		return !proto.Equal(got, want)
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
