package client

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	firstPause = 200 * time.Millisecond
	maxPause   = 10 * time.Second
	// maxTry bounds one try, so that a dead connection does not use up the call.
	maxTry = 20 * time.Second
)

// call sends a request and repeats it where that helps. id is the deliberation
// concerned.
func call[Request, Reply any](ctx context.Context, c *Client, id string, method func(context.Context, *Request) (*Reply, error), request *Request) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	pauses := newPauses()
	for tries := 0; ; tries++ {
		reply, err := try(ctx, method, request)
		failed := c.convert(ctx, id, err)
		if failed == nil {
			return reply, nil
		}
		if tries >= c.options.Retries || !repeatable(failed) {
			return nil, failed
		}
		if failed = c.pause(ctx, pauses, failed); failed != nil {
			return nil, failed
		}
	}
}

func try[Request, Reply any](ctx context.Context, method func(context.Context, *Request) (*Reply, error), request *Request) (*Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTry)
	defer cancel()
	return method(ctx, request)
}

func repeatable(failed *Error) bool {
	return failed.Code == Unavailable || failed.Code == LimitReached || failed.Code == DeadlineExceeded
}

func newPauses() *backoff.ExponentialBackOff {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = firstPause, maxPause
	return pauses
}

// pause waits before the next try. It returns an error if there is none: failed if
// the deadline comes first, because failed says when to come back.
func (c *Client) pause(ctx context.Context, pauses *backoff.ExponentialBackOff, failed *Error) *Error {
	pause := failed.RetryAfter + rand.N(firstPause) //nolint:gosec // a random pause, so that not all callers come at once
	if failed.RetryAfter == 0 {
		pause = pauses.NextBackOff()
	}
	if c.options.OnRetry != nil && !endsWithin(ctx, pause) {
		c.options.OnRetry(failed)
	}
	return sleep(ctx, pause, failed)
}

// endsWithin reports whether a context has ended, or its deadline comes before the
// end of a pause.
func endsWithin(ctx context.Context, pause time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(deadline) <= pause
}

// sleep waits for a pause. It returns failed at once if the context ends within it.
func sleep(ctx context.Context, pause time.Duration, failed *Error) *Error {
	if endsWithin(ctx, pause) {
		return failed
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ended(ctx, failed.DeliberationID)
	}
}
