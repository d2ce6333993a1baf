package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what breaks.
type Kind string

// The kinds of faults.
const (
	KillFunction    Kind = "function server killed"
	PauseFunction   Kind = "function server paused"
	StopFunction    Kind = "function server stopped and started"
	KillKeeper      Kind = "keeper killed"
	PauseKeeper     Kind = "keeper paused"
	KillNATS        Kind = "NATS server killed"
	KillNATSLeader  Kind = "NATS server that leads the journal killed"
	PauseNATSLeader Kind = "NATS server that leads the journal paused"
	SplitNATS       Kind = "NATS server cut off from the others"
	KillAllNATS     Kind = "all NATS servers killed"
	CutFunctions    Kind = "functions cut off from NATS"
	CutWorkers      Kind = "workers cut off from NATS"
	MuteWorkers     Kind = "workers and NATS do not hear each other"
	CutKeepers      Kind = "keeper cut off from NATS"
	ResetWorkers    Kind = "connections of workers to NATS reset"
	SlowWorkers     Kind = "workers far from NATS (latency)"
	NarrowWorkers   Kind = "narrow line from workers to NATS"
	SlowFunctions   Kind = "functions far from NATS (latency)"
	FailModel       Kind = "model answers 503"
	HangModel       Kind = "model hangs"
	BreakModel      Kind = "model breaks its answers off"
	CutModel        Kind = "model cannot be reached"
	KillReplica     Kind = "worker replica killed"
	PauseReplica    Kind = "worker replica paused, back after the ack wait"
	Poison          Kind = "deliberation that kills its worker"
	RollWorker      Kind = "new worker version rolled out"
	ScaleWorker     Kind = "workers scaled 2 → 1 → 2"
	SkewClock       Kind = "clock of a Ray node jumps"
	KillNode        Kind = "Ray node killed"
	KillHead        Kind = "Ray head killed, started and deployed again"
	Flood           Kind = "flood of submits and hostile bodies"
	Backlog         Kind = "backlog of 100,000"
	Expire          Kind = "journal with a short age, both keepers away for longer"
)

// A track is what can happen to one part. On a track there is one fault at a
// time; tracks are independent, so faults of different parts overlap.
type track struct {
	name string
	// least and most bound the pause between two faults, in a long run.
	least, most time.Duration
	kinds       []choice
}

// choice is a kind that a track draws from.
type choice struct {
	kind Kind
	// weight is how many cards of the track's deck are this kind.
	weight int
	// least and most bound how long it lasts.
	least, most time.Duration
	// long is why a short run leaves it out; empty if it does not.
	long string
}

// The reasons why a short run, of 20 s, leaves a kind out.
const (
	election = "a new leader takes up to 10 s, and another 10 s after it heals"
	silence  = "a silent connection is noticed after 20 s or more"
	patient  = "a call that hangs is given up after tens of seconds"
	ackWait  = "it lasts longer than the ack wait"
	attempts = "five attempts, each with a new replica"
	replicas = "Ray takes 10 to 60 s to start replicas"
	overdue  = "the backlog is due 90 s after it is stored"
	age      = "the journal's age is 150 s"
)

const s = time.Second

var tracks = []track{
	{"functions", 5 * s, 20 * s, []choice{
		{KillFunction, 3, 1 * s, 6 * s, ""}, {PauseFunction, 2, 2 * s, 10 * s, ""}, {StopFunction, 1, 1 * s, 2 * s, ""},
	}},
	{"keepers", 10 * s, 30 * s, []choice{
		{KillKeeper, 2, 2 * s, 15 * s, ""}, {PauseKeeper, 1, 5 * s, 25 * s, ""}, {CutKeepers, 1, 3 * s, 15 * s, ""},
	}},
	{"nats", 15 * s, 40 * s, []choice{
		{KillNATS, 2, 2 * s, 10 * s, ""},
		{KillNATSLeader, 2, 2 * s, 10 * s, ""},
		{PauseNATSLeader, 2, 3 * s, 15 * s, ""},
		{SplitNATS, 2, 5 * s, 15 * s, election},
		{KillAllNATS, 1, 2 * s, 10 * s, election},
	}},
	{"lines", 5 * s, 20 * s, []choice{
		{CutFunctions, 2, 2 * s, 8 * s, ""},
		{CutWorkers, 2, 2 * s, 20 * s, ""},
		{MuteWorkers, 2, 5 * s, 25 * s, silence},
		{ResetWorkers, 2, 1 * s, 3 * s, ""},
		{SlowWorkers, 1, 5 * s, 20 * s, ""},
		{NarrowWorkers, 1, 5 * s, 20 * s, ""},
		{SlowFunctions, 1, 5 * s, 15 * s, ""},
	}},
	{"model", 15 * s, 40 * s, []choice{
		{FailModel, 2, 2 * s, 10 * s, ""},
		{HangModel, 1, 2 * s, 6 * s, patient},
		{BreakModel, 1, 2 * s, 8 * s, ""},
		{CutModel, 1, 2 * s, 8 * s, ""},
	}},
	{"ray", 10 * s, 25 * s, []choice{
		{KillReplica, 4, 1 * s, 5 * s, ""},
		{PauseReplica, 3, 3 * s, 12 * s, ackWait},
		{Poison, 1, 1 * s, 2 * s, attempts},
		{RollWorker, 2, 1 * s, 2 * s, replicas},
		{ScaleWorker, 1, 3 * s, 10 * s, replicas},
		{SkewClock, 3, 5 * s, 15 * s, ""},
		{KillNode, 2, 2 * s, 10 * s, replicas},
		{KillHead, 1, 1 * s, 5 * s, replicas},
	}},
	{"callers", 60 * s, 150 * s, []choice{
		{Flood, 1, 2 * s, 5 * s, ""},
	}},
	{"masses", 60 * s, 180 * s, []choice{
		{Backlog, 1, 1 * s, 2 * s, overdue},
		{Expire, 1, shortAge + 10*s, shortAge + 25*s, age},
	}},
}

// Fault is something that breaks. One that must heal first before the next of
// its track may start, and takes longer than planned, moves what follows.
type Fault struct {
	Track string
	// At is when, from the start; For is how long it lasts.
	At, For time.Duration
	Kind    Kind
	// Which chooses among parts of a kind.
	Which uint32
}

// Ask is a deliberation that a caller asks for.
type Ask struct {
	At time.Duration
	ID string
	// Models are the agents', in their order.
	Models  []string
	Timeout time.Duration
	Retries int32
	// Server is which function server is asked first.
	Server int
	// Cancel is when it is cancelled, from its acceptance; 0 for never.
	Cancel time.Duration
	// Bad makes the request one that must be refused with 400.
	Bad bool
	// Twin asks again with the same id for something else, which must be
	// refused with 422.
	Twin bool
	// Impatient callers do not repeat what was not answered.
	Impatient bool
	// Backlog is stored in the journal past the doors, for a pool without workers.
	Backlog bool
}

// The models: how long each takes is in model.go.
const (
	Quick  = "quick"
	Slow   = "slow"
	Slower = "slower"
	Never  = "never"
)

// Plan is what happens in a run.
type Plan struct {
	Seed   uint64
	Length time.Duration
	// Long is a run that has room for every kind of fault.
	Long   bool
	Faults []Fault
	Asks   []Ask
}

// long is how long a run must be to have room for every kind of fault.
const long = 3 * time.Minute

// NewPlan decides what happens. The same arguments make the same plan. Where
// only is given, kinds whose names hold none of its words do not happen.
func NewPlan(seed uint64, length time.Duration, only ...string) Plan {
	plan := Plan{Seed: seed, Length: length, Long: length >= long}
	for i, t := range tracks {
		t.kinds = slices.DeleteFunc(slices.Clone(t.kinds), func(c choice) bool {
			named := func(word string) bool { return strings.Contains(string(c.kind), word) }
			return c.long != "" && !plan.Long || len(only) > 0 && !slices.ContainsFunc(only, named)
		})
		if len(t.kinds) == 0 {
			continue
		}
		plan.Faults = append(plan.Faults, t.faults(rand.New(rand.NewPCG(seed, uint64(i))), length, plan.Long)...)
	}
	slices.SortStableFunc(plan.Faults, func(a, b Fault) int { return int(a.At - b.At) })
	plan.Asks = asks(rand.New(rand.NewPCG(seed, 100)), seed, length, plan.Long)
	return plan
}

// faults deals the track's deck, again and again, until the time is over. A long
// run's first deck has one card of each kind, with the shortest pauses.
func (t track) faults(random *rand.Rand, length time.Duration, isLong bool) []Fault {
	least, most := t.least, t.most
	if !isLong {
		least, most = least/5, most/4
	}
	var faults []Fault
	var deck []choice
	first := 0 // cards of the first deck that are left
	if isLong {
		first = len(t.kinds)
		deck = shuffled(random, slices.Clone(t.kinds))
	}
	pause := func() time.Duration {
		if first--; first >= 0 {
			return least
		}
		return between(random, least, most)
	}
	for at := pause(); at < length; at += pause() {
		if len(deck) == 0 {
			deck = t.deck(random)
		}
		drawn := deck[0]
		deck = deck[1:]
		fault := Fault{Track: t.name, At: at, Kind: drawn.kind, For: between(random, drawn.least, drawn.most), Which: random.Uint32()}
		if !isLong {
			fault.For = min(fault.For, 5*s)
		}
		if at += fault.For; at > length {
			break
		}
		faults = append(faults, fault)
	}
	return faults
}

// Calm is a plan in which nothing breaks: the worker is rolled out anew and
// scaled while callers ask.
func Calm(seed uint64) Plan {
	plan := Plan{Seed: seed, Length: 60 * s, Faults: []Fault{
		{Track: "ray", At: 4 * s, For: s, Kind: RollWorker}, {Track: "ray", At: 20 * s, For: 5 * s, Kind: ScaleWorker},
	}}
	for _, ask := range asks(rand.New(rand.NewPCG(seed, 200)), seed, plan.Length, true) {
		ask.ID, ask.Cancel = "calm-"+ask.ID, 0
		ask.Models = slices.DeleteFunc(ask.Models, func(model string) bool { return model == Never })
		plan.Asks = append(plan.Asks, ask)
	}
	return plan
}

func (t track) deck(random *rand.Rand) []choice {
	var deck []choice
	for _, c := range t.kinds {
		for range c.weight {
			deck = append(deck, c)
		}
	}
	return shuffled(random, deck)
}

func shuffled(random *rand.Rand, deck []choice) []choice {
	random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	return deck
}

// pauseBetweenAsks is the mean: some eight a second.
const pauseBetweenAsks = 125 * time.Millisecond

func asks(random *rand.Rand, seed uint64, length time.Duration, isLong bool) []Ask {
	var asks []Ask
	for at := time.Duration(0); at < length; at += time.Duration(random.ExpFloat64() * float64(pauseBetweenAsks)) {
		ask := Ask{
			At: at, ID: fmt.Sprintf("f%d-%d", seed, len(asks)), Retries: int32(random.IntN(11)), Server: random.IntN(2),
			Timeout: between(random, 40*s, 120*s).Truncate(s),
		}
		if !isLong {
			ask.Timeout = between(random, 20*s, 30*s).Truncate(s)
		}
		for range 1 + random.IntN(1+random.IntN(8)) {
			ask.Models = append(ask.Models, someModel(random))
		}
		switch chance := random.IntN(100); {
		case chance < 2:
			ask.Timeout = between(random, 3*s, 12*s).Truncate(s)
			ask.Models = append(ask.Models, Never)
		case chance < 10:
			ask.Cancel = between(random, 1, 4*s)
		case chance < 12:
			ask.Bad = true
		case chance < 15:
			ask.Twin = true
		case chance < 25:
			ask.Impatient = true
		}
		asks = append(asks, ask)
	}
	return asks
}

func someModel(random *rand.Rand) string {
	switch chance := random.IntN(10); {
	case chance < 6:
		return Quick
	case chance < 9:
		return Slow
	default:
		return Slower
	}
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)+1))
}

// String is the plan's faults, a line each, and how much is asked for.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %s: %d deliberations, %d faults\n", p.Seed, p.Length, len(p.Asks), len(p.Faults))
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "%8s  %-9s  %s, for %s\n", f.At.Round(100*time.Millisecond), f.Track, f.Kind, f.For.Round(100*time.Millisecond))
	}
	return b.String()
}

// kinds lists every kind, in the order of the tracks.
func kinds() []Kind {
	var all []Kind
	for _, t := range tracks {
		for _, c := range t.kinds {
			all = append(all, c.kind)
		}
	}
	return all
}

// omission is a kind that a run did not make.
type omission struct {
	kind   Kind
	reason string
}

// leftOut lists the kinds that a run did not make.
func (p Plan) leftOut(made []Window) []omission {
	var left []omission
	for _, t := range tracks {
		for _, c := range t.kinds {
			planned := slices.ContainsFunc(p.Faults, func(f Fault) bool { return f.Kind == c.kind })
			switch {
			case slices.ContainsFunc(made, func(w Window) bool { return w.Kind == c.kind }):
			case !planned && c.long != "" && !p.Long:
				left = append(left, omission{c.kind, fmt.Sprintf("needs a run of %s or more: %s", long, c.long)})
			case !planned:
				left = append(left, omission{c.kind, fmt.Sprintf("not in the plan of %s and this seed", p.Length)})
			default:
				left = append(left, omission{c.kind, "no time was left for it"})
			}
		}
	}
	return left
}
