package gate

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"rayexecutor/deliberation"
)

// sendWithin is how long a stream's reader may take for one event.
const sendWithin = 10 * time.Second

// visit is a request that has been let through, as its context.
type visit struct {
	context.Context

	gate     *Gate
	whole    *visit // the request, of which this is a part; itself, mostly
	response http.ResponseWriter
	inside   atomic.Bool  // whether it counts as a request
	reading  atomic.Bool  // whether it has its turn to read
	lasts    atomic.Bool  // whether it is a stream
	held     atomic.Int64 // bytes that it has asked for
	counted  atomic.Int64 // bytes of these that are counted
	body     body
}

type visitKey struct{}

// Value implements context.Context.
func (v *visit) Value(key any) any {
	if key == (visitKey{}) {
		return v
	}
	return v.Context.Value(key)
}

func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// leave gives back all that the request holds.
func (v *visit) leave() {
	if v.inside.Swap(false) {
		v.gate.requests.Release(1)
	}
	if v.reading.Swap(false) {
		v.gate.reads.Release(1)
	}
	v.giveBack()
	v.body.release()
}

func (v *visit) giveBack() {
	v.held.Store(0)
	pool, _ := v.pool()
	pool.Release(v.counted.Swap(0))
}

// take counts bytes that the request is about to hold; the first few are free.
func (v *visit) take(ctx context.Context, n int64) error {
	held := v.held.Add(n)
	if held <= small {
		return nil
	}
	n = min(n, held-small)
	pool, size := v.pool()
	if held-small > size {
		return &deliberation.Error{
			Code: deliberation.TooLarge, Field: "memory",
			Message: "this instance has too little for it: ask for less at a time, or give it more",
		}
	}
	if err := wait(ctx, pool, n, "memory"); err != nil {
		return err
	}
	v.counted.Add(n)
	return nil
}

// pool is where a request's bytes count, and how many it has.
func (v *visit) pool() (*semaphore.Weighted, int64) {
	if v.whole.lasts.Load() {
		return v.gate.sends, v.gate.limits.Sends
	}
	return v.gate.replies, v.gate.limits.Replies
}

// Take counts bytes that the request of a context is about to hold, until it
// has been answered. It waits for a while where too many are held already; the
// error is LimitReached, or TooLarge for what never fits. A context that no gate
// has let through is not counted.
func Take(ctx context.Context, bytes int) error {
	if v := visitOf(ctx); v != nil {
		return v.take(ctx, int64(bytes))
	}
	return nil
}

// Counts reports whether Take counts in a context.
func Counts(ctx context.Context) bool { return visitOf(ctx) != nil }

// Borrow returns a context in which what Take counts is given back by calling
// back.
func Borrow(ctx context.Context) (borrowing context.Context, back func()) {
	v := visitOf(ctx)
	if v == nil {
		return ctx, func() {}
	}
	part := &visit{Context: ctx, gate: v.gate, whole: v.whole, response: v.response}
	return part, part.giveBack
}

// Reading waits for the turn to read from the journal. A request waits once, and
// then reads to its end: what it has done would be lost. A stream waits each
// time, until done is called.
func Reading(ctx context.Context) (done func(), err error) {
	v := visitOf(ctx)
	if v == nil {
		return func() {}, nil
	}
	whole := v.whole
	if !whole.lasts.Load() && whole.reading.Swap(true) {
		return func() {}, nil
	}
	if err := wait(ctx, v.gate.reads, 1, "reads"); err != nil {
		whole.reading.Store(false)
		return nil, err
	}
	if whole.lasts.Load() {
		return func() { v.gate.reads.Release(1) }, nil
	}
	return func() {}, nil
}

// Stream makes a stream of a request: it counts as such until end is called,
// and may last. The error is LimitReached at once where there are too many.
func Stream(ctx context.Context) (end func(), err error) {
	v := visitOf(ctx)
	if v == nil {
		return func() {}, nil
	}
	if !v.gate.streams.TryAcquire(1) {
		return nil, &deliberation.Error{
			Code: deliberation.LimitReached, Field: "streams", RetryAfter: 5 * time.Second,
			Message: "this instance holds as many streams as fit into its memory: ask for the status instead, or come back",
		}
	}
	if v.inside.Swap(false) {
		v.gate.requests.Release(1)
	}
	v.giveBack()
	v.lasts.Store(true)
	control := http.NewResponseController(v.response)
	_ = control.SetReadDeadline(time.Time{}) // hosts without deadlines have none to lift
	_ = control.SetWriteDeadline(time.Time{})
	return func() { v.gate.streams.Release(1) }, nil
}

// Send lets a stream write, and cuts one whose reader does not read.
func Send(ctx context.Context, write func() error) error {
	v := visitOf(ctx)
	if v == nil {
		return write()
	}
	control := http.NewResponseController(v.response)
	_ = control.SetWriteDeadline(time.Now().Add(sendWithin))
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	return write()
}
