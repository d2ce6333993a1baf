package keeper

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// fillEvery is how often the keeper reads how full the journal is.
	fillEvery = 15 * time.Second
	// quietFor is how long no mark comes before a ledger counts as complete although
	// it has not seen the journal's last sequence: the last messages were deleted.
	quietFor = 10 * time.Second
)

// ExportTotals exports what the ledger has counted since the installation, and what
// the journal holds. Every keeper exports the same values: take the maximum of several,
// not their sum.
//
// The pools have series from the start, so that their first end is an increase.
func ExportTotals(metrics prometheus.Registerer, pools ...string) Option {
	return func(k *Keeper) {
		k.totals = &totals{pools: pools}
		metrics.MustRegister(k.totals)
	}
}

func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	openDesc = description("ray_executor_deliberations",
		"Deliberations that have not ended, by state (queued, running) and pool.", "state", "pool")
	oldestDesc = description("ray_executor_oldest_queued_seconds",
		"Time since the oldest queued deliberation of a pool was submitted; 0 if none is queued.", "pool")
	endedDesc = description("ray_executor_ended_total",
		"Deliberations that have ended since the installation, by outcome (completed, failed, cancelled) and pool.", "outcome", "pool")
	lateDesc = description("ray_executor_ended_late_total",
		"Those of completed and failed that ended at their deadline or after it.", "pool")
	forgottenDesc = description("ray_executor_forgotten_total",
		"Deliberations that the journal lost, by age or deletion, before they had ended.")
	executionDesc = description("ray_executor_execution_seconds",
		"Time from the first start of a deliberation to its end, without those cancelled, since the installation.")
	queueDesc = description("ray_executor_queue_seconds",
		"Time from the acceptance of a deliberation to its first start, since the installation.")
	tokensDesc = description("ray_executor_tokens_total",
		"Tokens of ended deliberations since the installation, by kind (prompt, completion, cached, reasoning) and model. "+
			"Cached are among prompt, reasoning among completion.", "kind", "model")
	requestsDesc = description("ray_executor_model_requests_total",
		"Calls of models by ended deliberations since the installation, by model.", "model")
	bytesDesc       = description("ray_executor_journal_bytes", "Bytes in the journal.")
	maxBytesDesc    = description("ray_executor_journal_max_bytes", "Most bytes that the journal holds; submit is refused from 80 % on. None without a limit.")
	messagesDesc    = description("ray_executor_journal_messages", "Messages in the journal.")
	maxMessagesDesc = description("ray_executor_journal_max_messages", "Most messages that the journal holds; submit is refused from 80 % on. None without a limit.")
	deadDesc        = description("ray_executor_dead", "Dead letters that wait for a person.")
	undeliveredDesc = description("ray_executor_undelivered", "Ends that the sink did not take and that wait for a person.")

	totalsDescs = []*prometheus.Desc{
		openDesc, oldestDesc, endedDesc, lateDesc, forgottenDesc, executionDesc, queueDesc, tokensDesc, requestsDesc,
		bytesDesc, maxBytesDesc, messagesDesc, maxMessagesDesc, deadDesc, undeliveredDesc,
	}
)

// totals is the collector of the ledger's totals.
//
// After a start a ledger is behind the journal for a while. It is not exported then,
// because a total that is smaller than at the last scrape looks like a counter that
// began at zero. The ledger before it is exported meanwhile, or none.
type totals struct {
	pools []string

	mu     sync.Mutex
	ledger *openLedger          // nil: none has caught up yet
	last   *deliberation.Totals // of the ledger before, until the next has caught up
	fill   journal.Fill
	filled bool
}

// Describe implements [prometheus.Collector].
func (t *totals) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range totalsDescs {
		descs <- desc
	}
}

// Collect implements [prometheus.Collector].
func (t *totals) Collect(metrics chan<- prometheus.Metric) {
	t.mu.Lock()
	ledger, last, fill, filled := t.ledger, t.last, t.fill, t.filled
	t.mu.Unlock()
	if filled {
		collectFill(metrics, fill)
	}
	var totals deliberation.Totals
	switch {
	case ledger != nil:
		totals = ledger.totals()
	case last != nil:
		totals = *last
		totals.Pools = slices.Clone(totals.Pools)
	default:
		return
	}
	for _, name := range t.pools {
		if !slices.ContainsFunc(totals.Pools, func(pool deliberation.PoolTotals) bool { return pool.GetPool() == name }) {
			totals.Pools = append(totals.Pools, deliberation.PoolTotals{StatsSnapshot_Pool: &pb.StatsSnapshot_Pool{Pool: name}})
		}
	}
	collectTotals(metrics, totals)
}

func (l *openLedger) totals() deliberation.Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ledger.Totals()
}

// freeze keeps a ledger's totals in its place: the next ledger is loaded while they
// are exported, and a pod has no room for both.
func (t *totals) freeze(current *openLedger) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ledger == current {
		last := current.totals()
		t.ledger, t.last = nil, &last
	}
}

func gauge(metrics chan<- prometheus.Metric, desc *prometheus.Desc, value float64, labels ...string) {
	metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func counter(metrics chan<- prometheus.Metric, desc *prometheus.Desc, value int64, labels ...string) {
	metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
}

func collectFill(metrics chan<- prometheus.Metric, fill journal.Fill) {
	gauge(metrics, bytesDesc, float64(fill.Bytes))
	gauge(metrics, messagesDesc, float64(fill.Messages))
	if fill.MaxBytes > 0 {
		gauge(metrics, maxBytesDesc, float64(fill.MaxBytes))
	}
	if fill.MaxMessages > 0 {
		gauge(metrics, maxMessagesDesc, float64(fill.MaxMessages))
	}
	gauge(metrics, deadDesc, float64(fill.Dead))
	gauge(metrics, undeliveredDesc, float64(fill.Undelivered))
}

func collectTotals(metrics chan<- prometheus.Metric, totals deliberation.Totals) {
	for _, pool := range totals.Pools {
		name := pool.GetPool()
		counter(metrics, endedDesc, pool.GetCompleted(), string(deliberation.Completed), name)
		counter(metrics, endedDesc, pool.GetFailed(), string(deliberation.Failed), name)
		counter(metrics, endedDesc, pool.GetCancelled(), string(deliberation.Cancelled), name)
		counter(metrics, lateDesc, pool.GetLate(), name)
		gauge(metrics, openDesc, float64(pool.Queued), string(deliberation.Queued), name)
		gauge(metrics, openDesc, float64(pool.Running), string(deliberation.Running), name)
		waiting := 0.0
		if !pool.OldestQueued.IsZero() {
			waiting = max(0, time.Since(pool.OldestQueued).Seconds())
		}
		gauge(metrics, oldestDesc, waiting, name)
	}
	for _, model := range totals.Models {
		usage, name := model.GetUsage(), model.GetModel()
		counter(metrics, tokensDesc, usage.GetPromptTokens(), "prompt", name)
		counter(metrics, tokensDesc, usage.GetCompletionTokens(), "completion", name)
		counter(metrics, tokensDesc, usage.GetCachedTokens(), "cached", name)
		counter(metrics, tokensDesc, usage.GetReasoningTokens(), "reasoning", name)
		counter(metrics, requestsDesc, usage.GetRequests(), name)
	}
	counter(metrics, forgottenDesc, totals.Forgotten)
	metrics <- histogram(queueDesc, totals.Queue)
	metrics <- histogram(executionDesc, totals.Execution)
}

// counted is a histogram of a ledger.
type counted interface {
	GetBounds() []float64
	GetCounts() []int64
	GetSum() float64
}

func histogram(desc *prometheus.Desc, counted counted) prometheus.Metric {
	buckets := map[float64]uint64{}
	count := uint64(0)
	for i, in := range counted.GetCounts() {
		count += uint64(in)
		if i < len(counted.GetBounds()) {
			buckets[counted.GetBounds()[i]] = count
		}
	}
	return prometheus.MustNewConstHistogram(desc, count, counted.GetSum(), buckets)
}

// export exports a ledger once it has caught up with the journal.
func (k *Keeper) export(ctx context.Context, current *openLedger) error {
	var state journal.State
	read := false
	var before uint64
	since := time.Now()
	return every(ctx, deadlineEvery, func() error {
		if !read {
			var err error
			if state, err = k.journal.State(ctx); err != nil {
				return k.unlessAway(current, "read the journal's state", err)
			}
			read = true
		}
		current.mu.Lock()
		sequence := current.ledger.Sequence()
		current.mu.Unlock()
		if sequence != before {
			before, since = sequence, time.Now()
		}
		if sequence >= state.Last || time.Since(since) > quietFor {
			k.totals.mu.Lock()
			k.totals.ledger = current
			k.totals.mu.Unlock()
			state.Last = 0
		}
		return nil
	})
}

// readFill reads how full the journal is, at intervals. While NATS is away the last
// values remain.
func (k *Keeper) readFill(ctx context.Context) error {
	fill := journal.Fill{}
	read := func() error {
		var err error
		if fill, err = k.journal.Fill(ctx, fill); err != nil {
			return err
		}
		k.totals.mu.Lock()
		k.totals.fill, k.totals.filled = fill, true
		k.totals.mu.Unlock()
		return nil
	}
	if err := read(); err != nil {
		return err
	}
	return every(ctx, fillEvery, read)
}
