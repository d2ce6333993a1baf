package gate

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"rayexecutor/deliberation"
)

// patience is how long a request waits for its turn.
const patience = 5 * time.Second

// Gate holds the limits of one instance. Make it with New.
type Gate struct {
	limits   Limits
	requests *semaphore.Weighted
	streams  *semaphore.Weighted
	reads    *semaphore.Weighted
	bodies   *semaphore.Weighted
	replies  *semaphore.Weighted
	sends    *semaphore.Weighted
}

// New returns a gate.
func New(limits Limits) *Gate {
	return &Gate{
		limits:   limits,
		requests: semaphore.NewWeighted(int64(limits.Requests)),
		streams:  semaphore.NewWeighted(int64(limits.Streams)),
		reads:    semaphore.NewWeighted(int64(limits.Reads)),
		bodies:   semaphore.NewWeighted(limits.Bodies),
		replies:  semaphore.NewWeighted(limits.Replies),
		sends:    semaphore.NewWeighted(limits.Sends),
	}
}

// Door is a handler behind the gate.
type Door struct {
	http.Handler

	// Admit returns the context in which an admitted request is answered, or why it is
	// refused. It is called first: who is refused occupies nothing. nil: all are
	// admitted.
	Admit func(r *http.Request) (context.Context, error)
	// MaxBody is the largest body in bytes, after decompression.
	MaxBody int64
	// Refuse answers a request that Admit or the gate refuses.
	Refuse func(w http.ResponseWriter, r *http.Request, err error)
	// ReadError converts the error of reading the body, a *deliberation.Error, to one
	// that the handler recognises. nil: no conversion.
	ReadError func(error) error
}

// Before returns the door with the gate in front of it.
func (g *Gate) Before(door *Door) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := g.pass(door, w, r); err != nil {
			door.Refuse(w, r, err)
		}
	})
}

// pass lets a request through, or says why not.
func (g *Gate) pass(door *Door, w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	if door.Admit != nil {
		var err error
		if ctx, err = door.Admit(r); err != nil {
			return err
		}
	}
	if r.ContentLength > door.MaxBody {
		return errBody
	}
	if err := wait(ctx, g.requests, 1, "requests"); err != nil {
		return err
	}
	v := &visit{Context: ctx, gate: g, response: w}
	v.whole = v
	v.inside.Store(true)
	defer v.leave()
	through := r.WithContext(v)
	if err := v.setBody(through, door); err != nil {
		return err
	}
	door.ServeHTTP(w, through)
	return nil
}

// wait takes so much of a limit, once there is as much.
func wait(ctx context.Context, limit *semaphore.Weighted, n int64, what string) error {
	if limit.TryAcquire(n) {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := limit.Acquire(waiting, n)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &deliberation.Error{
		Code: deliberation.LimitReached, Field: what, RetryAfter: time.Second, Cause: err,
		Message: "this instance has as many under way as fit into its memory; repeating is safe",
	}
}
