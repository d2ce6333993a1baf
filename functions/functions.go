// Package functions holds the operations of the ray-executor: submit, status,
// stats, cancel, list and watch, one file each. They hold no state: the journal does.
//
// Every face leads here. Events (http.go), RPCs (rpc.go) and the JSON API
// (rest.go) find their operation by the type of the request, and each call is
// counted in one place. What goes wrong is a *deliberation.Error, and the table
// in answer.go says how each face tells it.
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

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Journal is what the functions need of it. Errors are *deliberation.Error,
// Unavailable while NATS is away.
type Journal interface {
	// Accept appends a request; nil, nil means that it is accepted. If the id is in
	// use it returns the recorded request, which the caller may change.
	Accept(ctx context.Context, record *pb.DeliberationRequested, traceParent string) (existing *pb.DeliberationRequested, err error)
	// End appends an end unless one stands.
	End(ctx context.Context, id string, end proto.Message, traceParent string) (won bool, err error)
	// Story folds one deliberation; its state is Unknown where there is none.
	Read(ctx context.Context, id string) (*deliberation.History, error)
	// ReadLeader is Story for decisions.
	ReadLeader(ctx context.Context, id string) (*deliberation.History, error)
	// Watch tells each entry of a story after a sequence, as it comes, until its
	// end. The first call, with an entry that holds no event, says that the story
	// goes on; one that ended before is not told at all. Unknown ids are NotFound.
	Watch(ctx context.Context, id string, after uint64, tell func(deliberation.Entry) error) error
	// Page summarises stories, newest first; next is 0 at the end. It ends early
	// when they are large.
	Page(ctx context.Context, query deliberation.Query) (page []*pb.DeliberationSummary, next uint64, err error)
	// Ledger returns the ledger as of the last snapshot.
	Ledger(ctx context.Context) (ledger *deliberation.Ledger, revision uint64, err error)
	// CatchUp folds into a ledger all that the journal holds.
	CatchUp(ctx context.Context, ledger *deliberation.Ledger) error
	// Ready is nil once the journal has been reached.
	Ready(ctx context.Context) error
}

// Clusters tells how the Ray clusters are.
type Clusters interface {
	// Clusters asks every cluster; one that cannot be reached says so itself.
	Clusters(ctx context.Context) []*pb.Cluster
}

// Options is what the functions are made of.
type Options struct {
	Journal  Journal
	Clusters Clusters
	Rules    *deliberation.Rules
	// Serve are the names of the operations to serve.
	Serve []string
	Log   *slog.Logger
	// Limits is what all callers may take together. Zero: what fits GOMEMLIMIT.
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
	gate     *gate.Gate

	// streams ends when Drain is called.
	streams context.Context
	drain   context.CancelFunc

	// ledger holds the one ledger while nobody reads it; nil before the first.
	ledger chan *deliberation.Ledger
}

// Origin is what a door knows of a call besides its message.
type Origin struct {
	// DeliberationID stands where a submitted request names none; empty for a
	// fresh one.
	DeliberationID string
	// TraceParent is the caller's W3C trace context, empty for none.
	TraceParent string
}

// operation is one function behind the router.
type operation struct {
	name    string
	message func() proto.Message
	call    func(context.Context, proto.Message, Origin) (proto.Message, error)
}

// New returns the functions.
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
	f.watches = slices.Contains(options.Serve, "status")
	route(f, options.Serve, "submit", f.Submit)
	route(f, options.Serve, "status", f.Status)
	route(f, options.Serve, "stats", f.Stats)
	route(f, options.Serve, "stats", f.Jobs)
	route(f, options.Serve, "cancel", f.Cancel)
	route(f, options.Serve, "list", f.List)
	return f
}

// message is a pointer to T that is a protobuf message.
type message[T any] interface {
	*T
	proto.Message
}

// route puts an operation behind its request's event type, if it is served.
func route[T any, Request message[T], Reply proto.Message](f *Functions, served []string, name string, call func(context.Context, Request, Origin) (Reply, error)) {
	if !slices.Contains(served, name) {
		return
	}
	f.routes[events.Type(Request(new(T)))] = operation{
		name:    name,
		message: func() proto.Message { return Request(new(T)) },
		call: func(ctx context.Context, request proto.Message, origin Origin) (proto.Message, error) {
			return call(ctx, request.(Request), origin)
		},
	}
}

// Handle answers an event with an event. The error is one of the table's.
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

// call runs the operation of a request, which is served.
func (f *Functions) call(ctx context.Context, request proto.Message, origin Origin) (reply proto.Message, err error) {
	operation := f.routes[events.Type(request)]
	err = f.counted(ctx, operation.name, func() error {
		reply, err = operation.call(ctx, request, origin)
		return err
	})
	return reply, err
}

// nameOf is the name of the operation that takes a type of request, empty where
// that is not served here.
func (f *Functions) nameOf(request protoreflect.FullName) string {
	if f.watches && request == watchRequest {
		return "watch"
	}
	return f.routes[string(request)].name
}

// counted runs an operation for a door: it shows in the metrics, a failure in
// the log, and a panic is an error that was not foreseen.
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

// rescue turns a panic into an error that was not foreseen.
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

// subjectOf returns the deliberation that a reply is about, if one.
func subjectOf(reply proto.Message) string {
	if about, ok := reply.(interface{ GetDeliberationId() string }); ok {
		return about.GetDeliberationId()
	}
	return ""
}

// logFailure logs what a caller is not told: the causes.
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

// Ready is nil once the journal has been reached.
func (f *Functions) Ready(ctx context.Context) error { return f.journal.Ready(ctx) }
