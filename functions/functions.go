// Package functions holds the operations of the ray-executor: submit, status,
// stats, cancel, list and watch, one file each.
//
// An instance holds no state that another one needs: it may be scaled to zero,
// or killed in a call, and the call repeated at any other instance. The journal
// is the only state. Every decision is a compare-and-set there, so instances
// need no locks and no connection to each other.
//
// All doors lead here. CloudEvents (http.go), RPCs (rpc.go) and the JSON API
// (rest.go) decode a request, find its operation by the request's message type,
// and encode the reply. So the doors cannot differ in what an operation does.
// Every call goes through counted: metrics, log, panics. An error is a
// *deliberation.Error; the table in answer.go converts its code for each door.
// Any other error is Internal, and its text never reaches a caller.
//
// Memory and rates are limited by package gate, which is in front of every door.
// What an operation reads from the journal counts too: it takes its share with
// gate.Take before the reply is built.
package functions

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"rayexecutor/auth"
	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Journal is the part of the journal that the functions use. Errors are
// *deliberation.Error; Unavailable while NATS cannot be reached. Each method may
// be called concurrently and repeated. functions/journaltest is its conformance
// suite.
type Journal interface {
	// Accept appends a request; nil, nil means that it is stored. If the id is in
	// use it returns the recorded request, which the caller may change. LimitReached
	// above the watermark, but not for a recorded id: a repeat is always answered.
	Accept(ctx context.Context, record *pb.DeliberationRequested, traceParent string) (existing *pb.DeliberationRequested, err error)
	// End appends an end unless the deliberation has one; won is false then. A repeat
	// after Unavailable may find its own end, and is false too.
	End(ctx context.Context, id string, end proto.Message, traceParent string) (won bool, err error)
	// Read folds one deliberation, from any replica. Its state is Unknown for an id
	// that the journal does not hold. A history without an end is compared with the
	// leader's last sequence, so an end that a caller has seen never disappears.
	Read(ctx context.Context, id string) (*deliberation.History, error)
	// ReadLeader is Read from the leader alone, for decisions.
	ReadLeader(ctx context.Context, id string) (*deliberation.History, error)
	// Watch calls handle for each entry after a sequence, in order and as it is
	// stored, until the end. The first call has an entry without an event: the
	// deliberation has not ended at the sequence. If it has, handle is never called.
	// NotFound: the journal does not hold the id.
	Watch(ctx context.Context, id string, after uint64, handle func(deliberation.Entry) error) error
	// Page returns summaries, newest first. next is the Before of the next page; 0
	// after the last one. A page ends early if it is large, or after a
	// bounded scan.
	Page(ctx context.Context, query deliberation.Query) (page []*pb.DeliberationSummary, next uint64, err error)
	// Ledger returns a ledger as of the last snapshot, which the caller owns.
	Ledger(ctx context.Context) (ledger *deliberation.Ledger, revision uint64, err error)
	// CatchUp folds into a ledger what the journal holds beyond it. The fold up to an
	// error remains: the next call continues there. deliberation.ErrOtherLedger: the
	// ledger is not of this journal, or misses entries that have expired.
	CatchUp(ctx context.Context, ledger *deliberation.Ledger) error
	// Heartbeats returns the worker replicas' last heartbeats, by the replica's id.
	Heartbeats(ctx context.Context) (each map[string]deliberation.Heartbeat, bucket bool, err error)
	// Ready is nil once the journal has been reached.
	Ready(ctx context.Context) error
}

// Clusters reports the state of the Ray clusters.
type Clusters interface {
	// Clusters asks every cluster at once, until ctx ends. It does not fail: the
	// state of one that cannot be reached has the error.
	Clusters(ctx context.Context) []*pb.Cluster
}

// Options configure New. All but Auth and Limits are required.
type Options struct {
	Journal  Journal
	Clusters Clusters
	Rules    *deliberation.Rules
	// Serve are the names of the operations to serve, as in the setting FUNCTIONS.
	// status includes watch, and stats includes the active jobs.
	Serve []string
	Log   *slog.Logger
	// Auth finds out who calls. nil: everybody may do everything.
	Auth *auth.Check
	// Limits bound what all callers hold together. Zero: sizes that fit GOMEMLIMIT.
	Limits gate.Limits
}

// Functions are the operations. Make them with New; they are safe for
// concurrent use.
type Functions struct {
	journal  Journal
	clusters Clusters
	rules    *deliberation.Rules
	log      *slog.Logger
	metrics  *metrics
	started  time.Time
	routes   map[string]operation // by event type
	watches  bool                 // whether Watch is served
	auth     *auth.Check
	gate     *gate.Gate

	// streams ends when Drain is called: a watch would otherwise hold a stopping
	// server until its deliberation ends.
	streams context.Context
	drain   context.CancelFunc

	// ledger holds the one ledger between calls: it is the lock, too. nil: not
	// read yet.
	ledger chan *deliberation.Ledger
}

// Origin is what a door knows about a call besides its message.
type Origin struct {
	// DeliberationID is the id of a submitted request that names none: derived from
	// the event, or the Idempotency-Key. Empty: the id will be a fresh one.
	DeliberationID string
	// TraceParent is the caller's W3C trace context, empty for none.
	TraceParent string
}

// operation is one function behind the router, without the type of its request.
type operation struct {
	name    string
	message func() proto.Message
	call    func(context.Context, proto.Message, Origin) (proto.Message, error)
}

// New returns the functions. It starts nothing and reads nothing: Ready reports
// when the journal has been reached.
func New(options Options) *Functions {
	f := &Functions{
		journal: options.Journal, clusters: options.Clusters, rules: options.Rules, log: options.Log,
		metrics: newMetrics(), started: time.Now(), routes: make(map[string]operation),
		ledger: make(chan *deliberation.Ledger, 1),
	}
	f.ledger <- nil
	f.streams, f.drain = context.WithCancel(context.Background())
	if options.Limits == (gate.Limits{}) {
		options.Limits = gate.ForProcess()
	}
	f.gate = gate.New(options.Limits)
	if f.auth = options.Auth; f.auth == nil {
		f.auth = auth.Open()
	}
	f.watches = slices.Contains(options.Serve, "status")
	route(f, options.Serve, "submit", auth.Submit, f.Submit)
	route(f, options.Serve, "status", auth.Read, f.Status)
	route(f, options.Serve, "stats", auth.Read, f.Stats)
	route(f, options.Serve, "stats", auth.Read, f.Jobs)
	route(f, options.Serve, "cancel", auth.Cancel, f.Cancel)
	route(f, options.Serve, "list", auth.Read, f.List)
	return f
}

// message is a pointer to T that is a protobuf message: route can create one.
type message[T any] interface {
	*T
	proto.Message
}

// route adds an operation under its request's event type, if it is served. The
// event type is the message's full name, so no list of names can be out of date.
// A caller needs the scope.
func route[T any, Request message[T], Reply proto.Message](f *Functions, served []string, name string, scope auth.Scope, call func(context.Context, Request, Origin) (Reply, error)) {
	if !slices.Contains(served, name) {
		return
	}
	f.routes[events.Type(Request(new(T)))] = operation{
		name:    name,
		message: func() proto.Message { return Request(new(T)) },
		call: func(ctx context.Context, request proto.Message, origin Origin) (proto.Message, error) {
			if err := f.permit(ctx, scope); err != nil {
				return nil, err
			}
			return call(ctx, request.(Request), origin)
		},
	}
}

// Handle answers an event with an event, whose id follows from the request's: a
// repeated request has a reply with the same id. The error is a
// *deliberation.Error or is answered as Internal.
func (f *Functions) Handle(ctx context.Context, e event.Event) (reply *event.Event, err error) {
	operation, known := f.routes[e.Type()]
	err = f.counted(ctx, operation.name, func() error {
		reply, err = f.handle(ctx, &e, operation, known)
		return err
	})
	return reply, err
}

func (f *Functions) handle(ctx context.Context, e *event.Event, operation operation, known bool) (*event.Event, error) {
	if err := events.Validate(e); err != nil {
		return nil, err
	}
	if !known {
		return nil, f.unknownType(e.Type())
	}
	request := operation.message()
	if err := events.Decode(e, request); err != nil {
		return nil, err
	}
	reply, err := operation.call(ctx, request, Origin{
		DeliberationID: deliberation.DerivedID(e.Source(), e.ID()), TraceParent: events.TraceOf(e),
	})
	if err != nil {
		return nil, err
	}
	return events.Reply(e, reply, subjectOf(reply))
}

// call runs the operation of a request. The caller has checked that it is served.
func (f *Functions) call(ctx context.Context, request proto.Message, origin Origin) (reply proto.Message, err error) {
	operation := f.routes[events.Type(request)]
	err = f.counted(ctx, operation.name, func() error {
		reply, err = operation.call(ctx, request, origin)
		return err
	})
	return reply, err
}

// nameOf returns the name of the operation that takes a type of request; empty if
// this instance does not serve it.
func (f *Functions) nameOf(request protoreflect.FullName) string {
	if f.watches && request == watchRequest {
		return "watch"
	}
	return f.routes[string(request)].name
}

// counted runs an operation for a door. It counts and times the call, logs a
// failure, and converts a panic to an Internal error: net/http would recover it
// too, but the caller would get no answer, and the metrics no count.
func (f *Functions) counted(ctx context.Context, operation string, run func() error) error {
	f.metrics.inFlight.Inc()
	defer f.metrics.inFlight.Dec()
	started := time.Now()
	err := rescued(run)
	f.metrics.observe(operation, err, time.Since(started))
	f.logFailure(ctx, operation, err)
	return err
}

func rescued(run func() error) (err error) {
	defer rescue(&err)
	return run()
}

// rescue converts a panic to an error with its stack, for the log only. Defer it
// directly: recover works in no deeper call.
func rescue(err *error) {
	if cause := recover(); cause != nil {
		*err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
	}
}

func (f *Functions) unknownType(name string) error {
	types := make([]string, 0, len(f.routes))
	for known := range f.routes {
		types = append(types, known)
	}
	slices.Sort(types)
	return deliberation.Invalidf("type", "%q is not served here; served are %s", deliberation.Short(name), strings.Join(types, ", "))
}

// subjectOf returns the deliberation that a reply is about, for the event's
// subject; empty for statistics and lists.
func subjectOf(reply proto.Message) string {
	if about, ok := reply.(interface{ GetDeliberationId() string }); ok {
		return about.GetDeliberationId()
	}
	return ""
}

// logFailure logs an error with its cause, which no caller receives: it may name
// hosts and internals. Only what an operator must act on is a warning; a caller's
// own mistakes are debug messages, or one caller could fill the log.
func (f *Functions) logFailure(ctx context.Context, operation string, err error) {
	if err == nil {
		return
	}
	coded := deliberation.AsError(err)
	level := slog.LevelDebug
	switch coded.Code {
	case deliberation.Internal:
		level = slog.LevelError
	case deliberation.Unavailable, deliberation.LimitReached:
		level = slog.LevelWarn
	default:
	}
	f.log.Log(ctx, level, "refused", "operation", operation, "code", coded.Code,
		"error", coded.Error(), "cause", fmt.Sprint(coded.Cause), "deliberation", coded.DeliberationID)
}

// logEvent logs what happened to a deliberation, by its ids alone: a log has no prompts
// and no results. It is a debug message, for a busy instance has thousands a second.
func (f *Functions) logEvent(ctx context.Context, what, id, pool, traceParent string) {
	if f.log.Enabled(ctx, slog.LevelDebug) {
		f.log.DebugContext(ctx, what, "deliberation", id, "pool", pool, "trace", events.TraceID(traceParent))
	}
}

// Ready returns nil once the journal has been reached, and from then on: while
// NATS is away calls are answered with 503, which callers retry. An instance that
// went unready would be replaced by one in the same state.
func (f *Functions) Ready(ctx context.Context) error { return f.journal.Ready(ctx) }
