package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Window is a fault as it was: until its part was whole again.
type Window struct {
	Kind        Kind
	From, Until time.Time
}

// run carries plans out.
type run struct {
	ctx    context.Context
	plan   Plan
	rig    *rig
	client *http.Client
	out    io.Writer
	began  time.Time

	mu       sync.Mutex
	outcomes map[string]*Outcome
	windows  []Window
	gaps     []Gap
	failures []error

	tail tail
	// busy is held, for each track, while one of its faults lasts. Expire also
	// holds those of the parts that it stops.
	busy map[string]*sync.Mutex
}

func newRun(ctx context.Context, rig *rig, out io.Writer) *run {
	r := &run{
		ctx: ctx, rig: rig, out: out, outcomes: map[string]*Outcome{},
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	rig.model.poisoned = r.killAsker
	r.busy = map[string]*sync.Mutex{}
	for _, t := range tracks {
		r.busy[t.name] = &sync.Mutex{}
	}
	go r.tail.run(ctx, rig.nats) // until ctx ends, as the test does
	return r
}

// notef says a line, with the time since the start.
func (r *run) notef(format string, args ...any) {
	fmt.Fprintf(r.out, "%8s  %s\n", time.Since(r.began).Round(100*time.Millisecond), fmt.Sprintf(format, args...))
}

// carryOut carries a plan out, until all is healed, all callers have gone and
// everything has ended, and returns the evidence of it and of the plans before.
// Its error is the harness's own: that there is no evidence.
func (r *run) carryOut(plan Plan) (*Evidence, error) {
	r.plan, r.began = plan, time.Now()
	if err := r.followAll(); err != nil {
		return nil, err
	}
	r.notef("all is healed; what is open may end")
	draining, cancel := context.WithTimeout(r.ctx, 10*time.Minute)
	defer cancel()
	if err := r.drain(draining); err != nil {
		r.failures = append(r.failures, err) // what there is tells why
	}
	r.notef("nothing is open any more")
	return r.evidence(r.ctx)
}

// followAll makes the faults and the calls.
func (r *run) followAll() error {
	group, ctx := errgroup.WithContext(r.ctx)
	for _, t := range tracks {
		group.Go(func() error { return r.follow(ctx, t.name) })
	}
	group.Go(func() error {
		var callers sync.WaitGroup
		defer callers.Wait()
		for _, ask := range r.plan.Asks {
			if !sleep(ctx, time.Until(r.began.Add(ask.At))) {
				return ctx.Err()
			}
			callers.Go(func() { r.carryOutAsk(ctx, ask) })
		}
		return nil
	})
	return group.Wait()
}

// follow makes a track's faults, one after the other.
func (r *run) follow(ctx context.Context, track string) error {
	for _, f := range r.plan.Faults {
		if f.Track != track {
			continue
		}
		if !sleep(ctx, time.Until(r.began.Add(f.At))) {
			return ctx.Err()
		}
		r.busy[track].Lock()
		// One that was moved too far would last into the drain.
		if time.Since(r.began) > r.plan.Length {
			r.notef("%s: left out, no time is left", f.Kind)
		} else {
			r.happen(ctx, f)
		}
		r.busy[track].Unlock()
	}
	return ctx.Err()
}

// happen makes a fault and heals it. One that cannot be made or healed is told
// at the end: the run goes on.
func (r *run) happen(ctx context.Context, f Fault) {
	window := Window{Kind: f.Kind, From: time.Now()}
	r.notef("%s", f.Kind)
	heal, err := r.inject(ctx, f)
	if heal != nil {
		if f.Kind != Flood { // which lasts as long by itself
			sleep(ctx, f.For)
		}
		// Healed also where the run is given up: what is paused cannot end.
		err = errors.Join(err, heal(ctx))
	}
	window.Until = time.Now()
	if err != nil {
		r.notef("  NOT healed: %s: %v", f.Kind, err)
	}
	r.notef("  healed after %s: %s", window.Until.Sub(window.From).Round(100*time.Millisecond), f.Kind)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.windows = append(r.windows, window)
	if err != nil {
		r.failures = append(r.failures, fmt.Errorf("%s: %w", f.Kind, err))
	}
}

// drain waits until everything has ended and been announced.
func (r *run) drain(ctx context.Context) error {
	if err := r.rig.healthy(ctx); err != nil {
		return err
	}
	return until(ctx, "everything has ended", func(ctx context.Context) error {
		stats, err := r.stats(ctx, 0)
		if err != nil {
			return err
		}
		left, err1 := r.rig.nats.unsettled(ctx, poolConsumer)
		unannounced, err2 := r.rig.nats.unsettled(ctx, announceConsumer)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if stats.GetActiveDeliberations() > 0 || left > 0 || unannounced > 0 {
			return fmt.Errorf("%d are active, the pool holds %d, %d ends are not announced", stats.GetActiveDeliberations(), left, unannounced)
		}
		return nil
	})
}

func (r *run) stats(ctx context.Context, server int) (*pb.RayExecutorStats, error) {
	health := &pb.GetStatusResponse{}
	err := r.callOnce(ctx, r.rig.urls[server], "stats", &pb.GetStatusRequest{IncludeStats: true}, health)
	return health.GetStats(), err
}

// evidence reads all that there is to judge by.
func (r *run) evidence(ctx context.Context) (*Evidence, error) {
	e := &Evidence{
		Outcomes: r.outcomes, Windows: r.windows, Gaps: r.gaps, Stories: map[string]*Story{}, Announced: map[string][]Announcement{},
	}
	for i := range r.rig.urls {
		stats, err := r.stats(ctx, i)
		if err != nil {
			return nil, err
		}
		e.Stats = append(e.Stats, stats)
	}
	var err error
	if e.Calls, err = r.rig.model.calls(); err != nil {
		return nil, err
	}
	if err := r.readJournal(ctx, e); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	err = r.rig.nats.each(ctx, journal.Announcements, func(message *jetstream.RawStreamMsg) error {
		return e.announced(message.Subject, message.Data)
	})
	if err != nil {
		return nil, fmt.Errorf("read the announcements: %w", err)
	}
	e.Journals, err = r.rig.nats.states(ctx)
	return e, err
}

// add puts a message of the journal into its story.
func (e *Evidence) add(message *jetstream.RawStreamMsg) error {
	if strings.HasPrefix(message.Subject, "deliberation.stopped.") {
		return nil // a worker says that it stops: no story's
	}
	kind, qualifier, id, ok := events.ParseSubject(message.Subject)
	if !ok {
		return fmt.Errorf("the journal holds %s", message.Subject)
	}
	event, err := events.Lifecycle(message.Header, message.Data)
	if err != nil {
		return err
	}
	if e.Stories[id] == nil {
		e.Stories[id] = &Story{}
	}
	e.Stories[id].add(kind, Entry{Sequence: message.Sequence, At: message.Time, Qualifier: qualifier, Event: event})
	return nil
}

func (s *Story) add(kind deliberation.Kind, entry Entry) {
	switch kind {
	case deliberation.KindRequested:
		s.Requested = append(s.Requested, entry)
	case deliberation.KindStarted:
		s.Started = append(s.Started, entry)
	case deliberation.KindAgent:
		s.Agents = append(s.Agents, entry)
	case deliberation.KindDone:
		s.Ends = append(s.Ends, entry)
	}
}
