package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
)

// kept is evidence of one deliberation d of two agents that went well, but for
// a second attempt after the first agent had its record.
func kept() *Evidence {
	begin := time.Unix(1_000_000, 0)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * s) }
	result := func(i int) *pb.DeliberationResult {
		return &pb.DeliberationResult{
			AgentId: fmt.Sprintf("a%d", i), Proposal: "yes", Metadata: map[string]string{"status": "completed"},
		}
	}
	record := func(i int) *pb.AgentCompleted {
		return &pb.AgentCompleted{DeliberationId: "d", AgentIndex: int32(i), Result: result(i)}
	}
	return &Evidence{
		Outcomes: map[string]*Outcome{
			"d": {Ask: Ask{ID: "d", Models: []string{Quick, Slow}}, Accepted: true, Told: "running", ToldAt: at(2)},
			"r": {Ask: Ask{ID: "r", Bad: true}, Refused: 400},
			"u": {Ask: Ask{ID: "u"}, Unknown: true},
		},
		Stories: map[string]*Story{"d": {
			Requested: []Entry{{1, at(0), "default", &pb.DeliberationRequested{TimeoutSeconds: 60}}},
			Started: []Entry{
				{2, at(1), "default", &pb.DeliberationStarted{Attempt: 1}},
				{4, at(20), "default", &pb.DeliberationStarted{Attempt: 2}},
			},
			Agents: []Entry{{3, at(3), "0", record(0)}, {5, at(25), "1", record(1)}},
			Ends: []Entry{{6, at(26), "completed", &pb.DeliberationCompleted{
				Results: []*pb.DeliberationResult{result(0), result(1)},
			}}},
		}},
		Announced: map[string][]Announcement{"d": {{"orchestration.deliberation.completed", "d.done"}}},
		Calls: map[string]map[string][]Call{"d": {
			"a0": {{At: at(2), Answered: true}}, "a1": {{At: at(2)}, {At: at(21), Answered: true}},
		}},
		Stats:   []*pb.RayExecutorStats{{TotalDeliberations: 1, CompletedDeliberations: 1}},
		Windows: []Window{{KillReplica, at(3), at(10)}},
	}
}

func TestCheckFindsNothingWhereNothingIs(t *testing.T) {
	t.Parallel()
	e := kept()
	v := e.Check()
	if len(v.Broken) > 0 || v.Accepted != 1 || v.Refused != 1 || v.Unheld != 1 || v.Attempts != 2 || v.AskedTwice != 0 {
		t.Errorf("%+v", v)
	}
	if report := e.Report(Plan{Seed: 3}, v); !strings.Contains(report, "| worker replica killed | 1 | 7 | 0 | 0 |") {
		t.Error(report)
	}
}

func TestCheckFindsEachBrokenPromise(t *testing.T) {
	t.Parallel()
	for says, breakIt := range map[string]func(e *Evidence, d *Story){
		"d was accepted, and the journal does not hold it": func(e *Evidence, _ *Story) { delete(e.Stories, "d") },
		"d has 0 ends": func(_ *Evidence, d *Story) { d.Ends = nil },
		"d has 2 ends": func(_ *Evidence, d *Story) { d.Ends = append(d.Ends, d.Ends[0]) },
		"d was accepted 2 times": func(_ *Evidence, d *Story) {
			d.Requested = append(d.Requested, d.Requested[0])
		},
		"nobody asked for it":                              func(e *Evidence, d *Story) { e.Stories["x"] = d },
		"r was refused with 400, and the journal holds it": func(e *Evidence, d *Story) { e.Stories["r"] = d },
		"r is malformed, and was answered":                 func(e *Evidence, _ *Story) { e.Outcomes["r"].Refused = 422 },
		"d is good, and was refused with 400": func(e *Evidence, _ *Story) {
			e.Outcomes["d"].Accepted, e.Outcomes["d"].Refused = false, 400
		},
		"another request for d was answered 200": func(e *Evidence, _ *Story) { e.Outcomes["d"].Twin = 200 },
		"u: the caller was told nothing":         func(e *Evidence, _ *Story) { e.Outcomes["u"].Unknown = false },
		`a cancel was answered "cancelled"`:      func(e *Evidence, _ *Story) { e.Outcomes["d"].Cancelled = "cancelled" },
		`its status was "failed", and the end is "completed"`: func(e *Evidence, _ *Story) {
			e.Outcomes["d"].Told = "failed"
		},
		`its status was "running", 34s after its end`: func(e *Evidence, d *Story) {
			e.Outcomes["d"].ToldAt = d.Ends[0].At.Add(34 * s)
		},
		"attempt 2 is numbered 3": func(_ *Evidence, d *Story) {
			d.Started[1].Event.(*pb.DeliberationStarted).Attempt = 3
		},
		"the end of d was not announced": func(e *Evidence, _ *Story) { delete(e.Announced, "d") },
		"d was announced as":             func(e *Evidence, _ *Story) { e.Announced["d"][0].ID = "other" },
		"x was announced, and the journal knows nothing of it": func(e *Evidence, _ *Story) {
			e.Announced["x"] = e.Announced["d"]
		},
		"agent 0 is recorded twice": func(_ *Evidence, d *Story) { d.Agents = append(d.Agents, d.Agents[0]) },
		"the end tells nothing of a1": func(_ *Evidence, d *Story) {
			end := d.Ends[0].Event.(*pb.DeliberationCompleted)
			end.Results = end.GetResults()[:1]
		},
		"of a1 the record says": func(_ *Evidence, d *Story) {
			d.Ends[0].Event.(*pb.DeliberationCompleted).Results[1].Proposal = "no"
		},
		"d is failed, and an agent completed": func(_ *Evidence, d *Story) { d.Ends[0].Qualifier = "failed" },
		"d ended 40s after its deadline": func(_ *Evidence, d *Story) {
			d.Ends[0].At = d.Requested[0].At.Add(100 * s)
		},
		"agent 0 was asked 18s after its record": func(e *Evidence, d *Story) {
			e.Calls["d"]["a0"] = append(e.Calls["d"]["a0"], Call{At: d.Agents[0].At.Add(18 * s)})
		},
		"the journal had message 3":      func(e *Evidence, _ *Story) { e.Vanished = []string{"3 on x"} },
		"server 1 holds another journal": func(e *Evidence, _ *Story) { e.Journals = []string{"a", "b"} },
		"the statistics are":             func(e *Evidence, _ *Story) { e.Stats[0].TotalDeliberations = 2 },
	} {
		e := kept()
		breakIt(e, e.Stories["d"])
		if v := e.Check(); !strings.Contains(strings.Join(v.Broken, "\n"), says) {
			t.Errorf("%s: not found in %q", says, v.Broken)
		}
	}
}

// What is allowed, and must not be taken for broken.
func TestCheckExcuses(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(e *Evidence, d *Story){
		"an end that NATS was away for": func(e *Evidence, d *Story) {
			d.Ends[0].At = d.Requested[0].At.Add(100 * s)
			e.Windows = append(e.Windows, Window{KillAllNATS, d.Requested[0].At.Add(50 * s), d.Requested[0].At.Add(95 * s)})
		},
		"an attempt that was under way when another's record came": func(e *Evidence, d *Story) {
			d.Started[1].Sequence = 3
			d.Agents[0].Sequence = 4
			e.Calls["d"]["a0"] = append(e.Calls["d"]["a0"], Call{At: d.Agents[0].At.Add(18 * s)})
		},
		"a request that was left open and taken": func(e *Evidence, _ *Story) {
			e.Outcomes["d"].Accepted, e.Outcomes["d"].Unknown = false, true
		},
		"an announcement told twice": func(e *Evidence, _ *Story) {
			e.Announced["d"] = append(e.Announced["d"], e.Announced["d"][0])
		},
		"a record between a cancel's look and its end": func(e *Evidence, d *Story) {
			d.Ends[0].Qualifier, d.Ends[0].Event = "cancelled", &pb.DeliberationCancelled{}
			e.Announced["d"][0].Subject = "orchestration.deliberation.cancelled"
			e.Stats[0] = &pb.RayExecutorStats{TotalDeliberations: 1, CancelledDeliberations: 1}
		},
	} {
		e := kept()
		change(e, e.Stories["d"])
		if v := e.Check(); len(v.Broken) > 0 {
			t.Errorf("%s: %q", what, v.Broken)
		}
	}
	asked := kept()
	asked.Calls["d"]["a1"][0].Answered = true
	asked.Windows = append(asked.Windows, Window{KillFunction, asked.Windows[0].From, asked.Windows[0].Until})
	if v := asked.Check(); v.AskedTwice != 1 || v.Double[KillReplica] != 1 || v.Double[KillFunction] != 0 {
		t.Errorf("an agent asked twice is not counted: %+v", v)
	}
}

func TestDocumentPutsARunBetweenItsMarks(t *testing.T) {
	t.Parallel()
	e := kept()
	v := e.Check()
	document := "# Before\n" + beginMark + "\nan older run\n" + endMark + "\n## After\n"
	for range 2 { // again and again
		var err error
		document, err = e.Document(Plan{Seed: 3, Length: time.Hour}, v, time.Unix(0, 0), "Ray 2", document)
		if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(document, "older") || strings.Count(document, "seed 3, 1h0m0s of faults; Ray 2.") != 1 ||
		!strings.HasPrefix(document, "# Before\n"+beginMark) || !strings.HasSuffix(document, endMark+"\n## After\n") {
		t.Error(document)
	}
	if _, err := e.Document(Plan{}, v, time.Time{}, "", "# No marks"); err == nil {
		t.Error("a document without marks is written")
	}
}

// evictedEvidence is kept's, where the journal evicted d while no keeper ran.
func evictedEvidence() *Evidence {
	e := kept()
	requested := e.Stories["d"].Requested[0].At
	e.First, e.Gaps = 100, []Gap{{Snapshot: 1, First: 100}}
	e.Windows = []Window{{Expire, requested.Add(-10 * s), requested.Add(200 * s)}}
	delete(e.Announced, "d")
	e.Stats = []*pb.RayExecutorStats{{TotalDeliberations: 1, ForgottenDeliberations: 1}}
	return e
}

func TestCheckExcusesWhatWasEvicted(t *testing.T) {
	t.Parallel()
	e := evictedEvidence() // d ended, and its end was evicted uncounted
	if v := e.Check(); len(v.Broken) > 0 || v.Unheard != 1 || v.Forgotten != 0 {
		t.Errorf("%+v", v)
	}
	e.Stories["d"].Ends = nil
	e.Calls = nil
	if v := e.Check(); len(v.Broken) > 0 || v.Unheard != 0 || v.Forgotten != 1 {
		t.Errorf("without an end: %+v", v)
	}
}

func TestCheckFindsWhatEvictionDoesNotExcuse(t *testing.T) {
	t.Parallel()
	for says, breakIt := range map[string]func(e *Evidence, d *Story){
		"d has 0 ends": func(e *Evidence, d *Story) { d.Ends, e.First = nil, 1 }, // it is still stored
		"d has 0 ends ": func(e *Evidence, d *Story) { // keepers ran at its deadline
			d.Ends, e.Windows[0].Until = nil, d.Requested[0].At.Add(59*s)
		},
		"its end was announced": func(e *Evidence, d *Story) {
			d.Ends, e.Announced["d"] = nil, []Announcement{{"orchestration.deliberation.failed", "d.done"}}
		},
		"the end of d was not announced": func(e *Evidence, _ *Story) { // it is the first that is stored
			e.First, e.Gaps, e.Stats = 6, []Gap{{Snapshot: 1, First: 6}}, []*pb.RayExecutorStats{{TotalDeliberations: 1, CompletedDeliberations: 1}}
		},
		"the statistics are": func(e *Evidence, _ *Story) { e.Stats[0].ForgottenDeliberations = 0 },
	} {
		e := evictedEvidence()
		breakIt(e, e.Stories["d"])
		if v := e.Check(); !strings.Contains(strings.Join(v.Broken, "\n"), strings.TrimSpace(says)) {
			t.Errorf("%s: not found in %q", says, v.Broken)
		}
	}
}
