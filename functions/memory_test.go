package functions_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// memory is a journal in memory, which runs the conformance suite as the one on
// JetStream does. fail and panics, where set, are the outcome of every call.
type memory struct {
	mu      sync.Mutex
	entries []entry
	traces  []string
	fail    error
	lost    error // returned by Accept after it has stored the request
	panics  any
	// heartbeat is that of the replica of all starts.
	heartbeat    *pb.WorkerHeartbeat
	noHeartbeats error
	changed      chan struct{} // closed at the next change; nil while nobody watches
}

type entry struct {
	deliberation.Mark
	event proto.Message
}

func (e entry) asRead() deliberation.Entry {
	return deliberation.Entry{Sequence: e.Sequence, Time: e.Time, Event: e.event}
}

func (m *memory) check() error {
	if m.panics != nil {
		panic(m.panics)
	}
	return m.fail
}

func (m *memory) set(fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
	m.wakeWatches()
}

func (m *memory) wakeWatches() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// write appends an event as a worker or the functions do.
func (m *memory) write(id string, kind deliberation.Kind, qualifier string, event proto.Message) {
	sequence := uint64(len(m.entries) + 1)
	mark := deliberation.Mark{
		Sequence: sequence, Time: time.Unix(int64(sequence), 0), Kind: kind, Qualifier: qualifier,
		DeliberationID: id, Timeout: time.Minute,
	}
	if requested, ok := event.(*pb.DeliberationRequested); ok {
		mark.Tenant = requested.GetTenant()
	}
	if end, ok := event.(interface{ GetUsage() *pb.Usage }); ok {
		mark.Usage = end.GetUsage()
	}
	m.entries = append(m.entries, entry{mark, event})
	m.wakeWatches()
}

func (m *memory) start(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(id, deliberation.KindStarted, "default", &pb.DeliberationStarted{DeliberationId: id, Attempt: 1, Cluster: "east", Replica: "one"})
}

// beat sets what the replica of start waits for.
func (m *memory) beat(waiting ...*pb.WorkerHeartbeat_Waiting) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heartbeat = &pb.WorkerHeartbeat{Cluster: "east", Replica: "one", Waiting: waiting}
}

func (m *memory) Heartbeats(context.Context) (map[string]deliberation.Heartbeat, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return map[string]deliberation.Heartbeat{"one": {WorkerHeartbeat: m.heartbeat}}, true, m.noHeartbeats
}

func (m *memory) agent(id string, index int, proposal string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.write(id, deliberation.KindAgent, strconv.Itoa(index), &pb.AgentCompleted{
		DeliberationId: id, AgentIndex: int32(index), Result: journaltest.Result(index, proposal),
	})
}

func (m *memory) Accept(_ context.Context, record *pb.DeliberationRequested, traceParent string) (*pb.DeliberationRequested, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return nil, err
	}
	id := record.GetDeliberationId()
	if history := m.history(id, 0); len(history) > 0 {
		existing := deliberation.Fold(history).Requested
		if existing == nil {
			return nil, &deliberation.Error{Code: deliberation.Conflict, Field: "deliberation_id", DeliberationID: id, Message: "was used"}
		}
		return proto.CloneOf(existing), nil
	}
	m.write(id, deliberation.KindRequested, record.GetPool(), proto.CloneOf(record))
	m.traces = append(m.traces, traceParent)
	return nil, m.lost
}

func (m *memory) End(_ context.Context, id string, end proto.Message, traceParent string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return false, err
	}
	if m.fold(id).State.Ended() {
		return false, nil
	}
	qualifier := deliberation.Fold([]deliberation.Entry{{Event: end}}).State
	m.write(id, deliberation.KindDone, string(qualifier), end)
	m.traces = append(m.traces, traceParent)
	return true, nil
}

// history returns the entries of a deliberation after a sequence.
func (m *memory) history(id string, after uint64) (entries []deliberation.Entry) {
	for _, e := range m.entries {
		if e.DeliberationID == id && e.Sequence > after {
			entries = append(entries, e.asRead())
		}
	}
	return entries
}

func (m *memory) fold(id string) *deliberation.History { return deliberation.Fold(m.history(id, 0)) }

func (m *memory) Read(_ context.Context, id string) (*deliberation.History, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return nil, err
	}
	return m.fold(id), nil
}

func (m *memory) ReadLeader(ctx context.Context, id string) (*deliberation.History, error) {
	return m.Read(ctx, id)
}

func (m *memory) Watch(ctx context.Context, id string, after uint64, send func(deliberation.Entry) error) error {
	history, err := m.Read(ctx, id)
	switch {
	case err != nil:
		return err
	case history.State == deliberation.Unknown:
		return deliberation.NoSuch(id)
	case history.State.Ended() && history.Sequence <= after:
		return nil
	}
	if err := send(deliberation.Entry{}); err != nil {
		return err
	}
	after = min(after, history.Sequence)
	for {
		entries, changed, err := m.following(id, after)
		if err != nil {
			return err
		}
		for _, one := range entries {
			after = one.Sequence
			if err := send(one); err != nil {
				return err
			}
			if deliberation.Fold([]deliberation.Entry{one}).State.Ended() {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// following returns the entries after a sequence, and a channel that is closed at
// the next change.
func (m *memory) following(id string, after uint64) ([]deliberation.Entry, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.history(id, after), m.changed, m.check()
}

func (m *memory) Page(_ context.Context, query deliberation.Query) (summaries []*pb.DeliberationSummary, next uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return nil, 0, err
	}
	page := deliberation.NewPage(query.Size)
	for _, e := range slices.Backward(m.entries) {
		if e.Kind != deliberation.KindRequested || query.Before > 0 && e.Sequence >= query.Before || query.Pool != "" && e.Qualifier != query.Pool || query.Tenant != "" && e.Tenant != query.Tenant {
			continue
		}
		history := m.fold(e.DeliberationID)
		if query.State != "" && history.State != query.State || !query.Wants(history.Requested) {
			continue
		}
		page.Add(history)
		if page.Full() && e.Sequence > 1 {
			return page.Summaries, e.Sequence, nil
		}
	}
	return page.Summaries, 0, nil
}

func (m *memory) Ledger(context.Context) (*deliberation.Ledger, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return deliberation.NewLedger(nil), 0, m.check()
}

func (m *memory) CatchUp(_ context.Context, ledger *deliberation.Ledger) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(); err != nil {
		return err
	}
	if ledger.Sequence() > uint64(len(m.entries)) {
		return &deliberation.Error{Code: deliberation.Unavailable, Field: "statistics", Cause: deliberation.ErrOtherLedger}
	}
	for _, e := range m.entries {
		ledger.Apply(e.Mark)
	}
	return nil
}

func (m *memory) Ready(context.Context) error { return m.check() }
