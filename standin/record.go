package standin

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"
)

// Outcome is how a request ended.
type Outcome string

// The outcomes.
const (
	Running      Outcome = "running"       // not ended yet
	Answered     Outcome = "answered"      // with Status, which may be an error's
	ClientClosed Outcome = "client_closed" // the client went before it had its answer
	Cut          Outcome = "cut"           // closed by the stand-in in the middle, as its behaviour says
	ServerClosed Outcome = "server_closed" // the stand-in stopped
)

// Request is one request of a chat completion.
type Request struct {
	// ID counts requests from 1.
	ID     uint64    `json:"id"`
	Time   time.Time `json:"time"`
	Model  string    `json:"model"`
	System string    `json:"system,omitempty"`
	User   string    `json:"user,omitempty"`
	// Truncated reports that the messages were longer than what is recorded.
	Truncated bool `json:"truncated,omitempty"`
	Stream    bool `json:"stream"`

	Outcome Outcome `json:"outcome"`
	// Status is the HTTP status that was sent; 0: none was.
	Status int `json:"status,omitempty"`
	// Ended is when the answer was complete, or the client seen to be gone.
	Ended time.Time `json:"ended,omitzero"`
}

// Counts are exact, also beyond the requests that are recorded.
//
//nolint:recvcheck // those who read it have copies
type Counts struct {
	Total   uint64 `json:"total"`
	Running int    `json:"running"`
	// MaxRunning is the most that ran at once.
	MaxRunning   int    `json:"max_running"`
	Answered     uint64 `json:"answered"`
	ClientClosed uint64 `json:"client_closed"`
	Cut          uint64 `json:"cut"`
	ServerClosed uint64 `json:"server_closed"`
	// Statuses counts the answers by HTTP status.
	Statuses map[int]uint64 `json:"statuses"`
}

// Snapshot is the record's counts at one moment.
type Snapshot struct {
	Counts

	// Models are the counts by model.
	Models map[string]Counts `json:"models"`
}

// Of is the counts of one model; zero where it was never asked.
func (s Snapshot) Of(model string) Counts { return s.Models[model] }

// String is the counts in one line.
func (c Counts) String() string {
	return fmt.Sprintf("total=%d running=%d max_running=%d answered=%d client_closed=%d cut=%d server_closed=%d statuses=%v",
		c.Total, c.Running, c.MaxRunning, c.Answered, c.ClientClosed, c.Cut, c.ServerClosed, c.Statuses)
}

// entry is a request that is in the record, and where it counts.
type entry struct {
	Request

	epoch  uint64
	counts *Counts // of its model
}

// record holds the last requests in a ring, and exact counts of all.
type record struct {
	textLimit int

	mu      sync.Mutex
	ring    []*entry
	next    int
	lastID  uint64
	epoch   uint64 // counts resets
	all     Counts
	models  map[string]*Counts
	changed chan struct{} // closed at the next change; nil while nobody waits
	// finished counts successes by model and finish reason, for the metrics;
	// a reset leaves it alone, as counters only rise.
	finished map[finish]uint64
}

type finish struct{ model, reason string }

func newRecord(size, textLimit int) *record {
	return &record{
		textLimit: textLimit,
		ring:      make([]*entry, size),
		models:    map[string]*Counts{},
		finished:  map[finish]uint64{},
	}
}

// begin notes a request that has come.
func (r *record) begin() *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastID++
	e := &entry{Request: Request{ID: r.lastID, Time: time.Now(), Outcome: Running}, epoch: r.epoch}
	r.ring[r.next] = e
	r.next = (r.next + 1) % len(r.ring)
	r.all.enter()
	r.wake()
	return e
}

// read notes what the request asks for, once it is known.
func (r *record) read(e *entry, model string, req *chatRequest) {
	system, cutSystem := clipBytes(req.last("system"), r.textLimit)
	user, cutUser := clipBytes(req.last("user"), r.textLimit)
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Model, e.Stream, e.System, e.User, e.Truncated = model, req.Stream, system, user, cutSystem || cutUser
	e.counts = r.ofModel(model)
	e.counts.enter()
	if e.epoch != r.epoch { // reset in between: it runs, but does not count
		e.counts.Total--
	}
	r.wake()
}

// ofModel is the counts of a model, or the shared ones once there are many.
func (r *record) ofModel(model string) *Counts {
	counts, ok := r.models[model]
	if !ok && len(r.models) >= maxModels {
		counts, ok = r.models[""]
		model = ""
	}
	if !ok {
		counts = &Counts{}
		r.models[model] = counts
	}
	return counts
}

// end notes how a request ended; only the first time counts. reason is told
// of successes only.
func (r *record) end(e *entry, outcome Outcome, status int, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Outcome != Running {
		return
	}
	e.Outcome, e.Status, e.Ended = outcome, status, time.Now()
	current := e.epoch == r.epoch
	r.all.leave(outcome, status, current)
	if e.counts != nil {
		e.counts.leave(outcome, status, current)
	}
	if reason != "" {
		r.finished[finish{e.Model, reason}]++
	}
	r.wake()
}

func (c *Counts) enter() {
	c.Total++
	c.Running++
	c.MaxRunning = max(c.MaxRunning, c.Running)
}

func (c *Counts) leave(outcome Outcome, status int, current bool) {
	c.Running--
	if !current {
		return
	}
	switch outcome {
	case Answered:
		c.Answered++
		if c.Statuses == nil {
			c.Statuses = map[int]uint64{}
		}
		c.Statuses[status]++
	case ClientClosed:
		c.ClientClosed++
	case Cut:
		c.Cut++
	case ServerClosed:
		c.ServerClosed++
	case Running:
	}
}

// wake wakes the callers of Wait.
func (r *record) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// reset empties the record; running requests continue.
func (r *record) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.ring)
	r.next = 0
	r.epoch++
	r.all = Counts{Running: r.all.Running, MaxRunning: r.all.Running}
	for model, counts := range r.models {
		if counts.Running == 0 {
			delete(r.models, model)
			continue
		}
		*counts = Counts{Running: counts.Running, MaxRunning: counts.Running}
	}
	r.wake()
}

// requests returns copies of what is recorded, oldest first.
func (r *record) requests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Request, 0, min(len(r.ring), int(min(r.all.Total, uint64(len(r.ring))))))
	for i := range r.ring {
		if e := r.ring[(r.next+i)%len(r.ring)]; e != nil {
			all = append(all, e.Request)
		}
	}
	return all
}

// get is a copy of one request.
func (r *record) get(e *entry) Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.Request
}

func (r *record) snapshot() Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshotLocked()
}

func (r *record) snapshotLocked() Snapshot {
	s := Snapshot{Counts: r.all.clone(), Models: make(map[string]Counts, len(r.models))}
	for model, counts := range r.models {
		s.Models[model] = counts.clone()
	}
	return s
}

func (c *Counts) clone() Counts {
	out := *c
	out.Statuses = maps.Clone(c.Statuses)
	return out
}

// watch is the counts, and a channel that is closed when they are stale.
func (r *record) watch() (Snapshot, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.snapshotLocked(), r.changed
}

// wait returns once the counts are as wanted.
func (r *record) wait(ctx context.Context, wanted func(Snapshot) bool) error {
	for {
		snapshot, changed := r.watch()
		if wanted(snapshot) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("standin: still %s: %w", strings.TrimSpace(snapshot.String()), context.Cause(ctx))
		}
	}
}
