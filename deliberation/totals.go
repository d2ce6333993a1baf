package deliberation

import (
	"slices"
	"strings"
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// OtherLabel replaces the names above a bound, so that nobody can create time
	// series without limit. A pool cannot have this name.
	OtherLabel = "_other"
	// UnknownPool has the ends that an older version counted without their pool.
	UnknownPool = "_unknown"

	// maxPools and maxModels bound the names that have totals of their own.
	maxPools  = 100
	maxModels = 50

	// lateMargin is how much earlier than its deadline an end counts as late: a
	// worker that ends it at the deadline may be this much off the journal's clock.
	lateMargin = 100 * time.Millisecond
)

// Bounds are the upper bounds in seconds of the histograms' buckets: from an end
// without a queue to the longest timeout, a day.
var Bounds = []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400}

// Totals is what a ledger has counted since the installation, and what is open, by
// pool and model. Reading it costs the number of pools and models, whatever has
// ended or is open.
type Totals struct {
	Pools     []PoolTotals
	Models    []*pb.StatsSnapshot_Model
	Queue     *pb.StatsSnapshot_Histogram
	Execution *pb.StatsSnapshot_Histogram
	Forgotten int64
}

// PoolTotals are those of one pool.
type PoolTotals struct {
	*pb.StatsSnapshot_Pool

	Queued, Running int64
	// OldestQueued is when the oldest queued one was submitted, to the second; zero
	// if none is queued.
	OldestQueued time.Time
}

// totals are the ledger's totals by name.
type totals struct {
	pools            map[string]*poolTotals
	numbered         []*poolTotals // by the number of the pool's name
	models           map[string]*pb.Usage
	queue, execution histogram
}

// poolTotals also counts what is open. waiting has the number of queued ones that were
// submitted in a second: timeouts bound the number of its keys, not the backlog.
type poolTotals struct {
	ended           *pb.StatsSnapshot_Pool
	queued, running int64
	waiting         map[int64]int32
}

// newTotals continues those of a snapshot. Ends that only the sums of an older version
// have are those of UnknownPool.
func newTotals(snapshot *pb.StatsSnapshot) totals {
	t := totals{pools: map[string]*poolTotals{}, models: map[string]*pb.Usage{}}
	unknown := &pb.StatsSnapshot_Pool{
		Completed: snapshot.GetCompleted(), Failed: snapshot.GetFailed(), Cancelled: snapshot.GetCancelled(),
	}
	for _, saved := range snapshot.GetPools() {
		ended := t.named(saved.GetPool()).ended
		ended.Completed += saved.GetCompleted()
		ended.Failed += saved.GetFailed()
		ended.Cancelled += saved.GetCancelled()
		ended.Late += saved.GetLate()
		unknown.Completed -= saved.GetCompleted()
		unknown.Failed -= saved.GetFailed()
		unknown.Cancelled -= saved.GetCancelled()
	}
	if unknown.GetCompleted() > 0 || unknown.GetFailed() > 0 || unknown.GetCancelled() > 0 {
		ended := t.named(UnknownPool).ended
		ended.Completed += max(0, unknown.GetCompleted())
		ended.Failed += max(0, unknown.GetFailed())
		ended.Cancelled += max(0, unknown.GetCancelled())
	}
	for _, saved := range snapshot.GetModels() {
		t.models[saved.GetModel()] = addUsage(t.models[saved.GetModel()], saved.GetUsage())
	}
	t.queue.load(snapshot.GetQueue())
	t.execution.load(snapshot.GetExecution())
	return t
}

// pool returns the totals of a pool. A lane behind the pool's name is not part of it.
func (t *totals) pool(name string) *poolTotals {
	if base, _, lane := strings.Cut(name, "_"); lane && base != "" {
		name = base
	}
	if _, known := t.pools[name]; !known && len(t.pools) >= maxPools {
		name = OtherLabel
	}
	return t.named(name)
}

// named returns the totals of this very name; a snapshot has a bounded number.
func (t *totals) named(name string) *poolTotals {
	pool, known := t.pools[name]
	if !known {
		pool = &poolTotals{ended: &pb.StatsSnapshot_Pool{Pool: name}, waiting: map[int64]int32{}}
		t.pools[name] = pool
	}
	return pool
}

// use adds to the usage of a model.
func (t *totals) use(model string, usage *pb.Usage) {
	if _, known := t.models[model]; !known && (len(t.models) >= maxModels || usage.GetPromptTokens()+usage.GetCompletionTokens() == 0) {
		model = OtherLabel
	}
	t.models[model] = addUsage(t.models[model], usage)
}

// opened and closed count an open deliberation in and out.
func (p *poolTotals) opened(open slot) { p.count(open, 1) }
func (p *poolTotals) closed(open slot) { p.count(open, -1) }

func (p *poolTotals) count(open slot, by int32) {
	if open.started != 0 {
		p.running += int64(by)
		return
	}
	p.queued += int64(by)
	second := open.submitted / int64(time.Second)
	if p.waiting[second] += by; p.waiting[second] == 0 {
		delete(p.waiting, second)
	}
}

// end counts an end.
func (p *poolTotals) end(end State, late bool) {
	switch end {
	case Completed:
		p.ended.Completed++
	case Failed:
		p.ended.Failed++
	default:
		p.ended.Cancelled++
	}
	// A caller chose the time of a cancellation.
	if late && end != Cancelled {
		p.ended.Late++
	}
}

// Totals returns the totals so far; they do not change with the ledger.
func (l *Ledger) Totals() Totals {
	t := Totals{
		Queue: l.totals.queue.message(), Execution: l.totals.execution.message(), Models: l.totals.modelMessages(),
		Forgotten: l.counts.GetForgotten(),
	}
	for _, pool := range l.totals.pools {
		one := PoolTotals{StatsSnapshot_Pool: pool.message(), Queued: pool.queued, Running: pool.running}
		if oldest, queued := pool.oldest(); queued {
			one.OldestQueued = time.Unix(oldest, 0)
		}
		t.Pools = append(t.Pools, one)
	}
	return t
}

func (p *poolTotals) oldest() (second int64, queued bool) {
	for at := range p.waiting {
		if !queued || at < second {
			second, queued = at, true
		}
	}
	return second, queued
}

func (p *poolTotals) message() *pb.StatsSnapshot_Pool {
	e := p.ended
	return &pb.StatsSnapshot_Pool{
		Pool: e.GetPool(), Completed: e.GetCompleted(), Failed: e.GetFailed(), Cancelled: e.GetCancelled(), Late: e.GetLate(),
	}
}

func (t *totals) modelMessages() []*pb.StatsSnapshot_Model {
	models := make([]*pb.StatsSnapshot_Model, 0, len(t.models))
	for model, usage := range t.models {
		models = append(models, &pb.StatsSnapshot_Model{Model: model, Usage: addUsage(nil, usage)})
	}
	return models
}

// save writes the totals into a snapshot.
func (t *totals) save(snapshot *pb.StatsSnapshot) {
	pools := make([]*pb.StatsSnapshot_Pool, 0, len(t.pools))
	for _, pool := range t.pools {
		pools = append(pools, pool.message())
	}
	snapshot.Pools, snapshot.Models = pools, t.modelMessages()
	snapshot.Queue, snapshot.Execution = t.queue.message(), t.execution.message()
}

// histogram counts durations by Bounds. The last count has what is above all.
type histogram struct {
	counts []int64
	sum    float64
}

func (h *histogram) observe(duration time.Duration) {
	if h.counts == nil {
		h.counts = make([]int64, len(Bounds)+1)
	}
	seconds := max(0, duration.Seconds())
	index, _ := slices.BinarySearch(Bounds, seconds)
	h.counts[index]++
	h.sum += seconds
}

// load continues a stored histogram. One with other bounds cannot be continued.
func (h *histogram) load(stored *pb.StatsSnapshot_Histogram) {
	if slices.Equal(stored.GetBounds(), Bounds) && len(stored.GetCounts()) == len(Bounds)+1 {
		h.counts, h.sum = slices.Clone(stored.GetCounts()), stored.GetSum()
	}
}

func (h *histogram) message() *pb.StatsSnapshot_Histogram {
	counts := slices.Clone(h.counts)
	if counts == nil {
		counts = make([]int64, len(Bounds)+1)
	}
	return &pb.StatsSnapshot_Histogram{Bounds: Bounds, Counts: counts, Sum: h.sum}
}
