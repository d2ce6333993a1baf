package delivery

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"

	"rayexecutor/journal"
)

const (
	// firstPause doubles with each attempt, up to longestPause.
	firstPause   = 200 * time.Millisecond
	longestPause = time.Minute
)

// Pause returns how long an end waits after an attempt, counted from 1:
// exponential backoff with jitter of a half, and never less than atLeast.
func Pause(attempt uint64, atLeast time.Duration) time.Duration {
	full := min(firstPause<<min(max(attempt, 1)-1, 16), longestPause)
	return max(full/2+rand.N(full/2), atLeast) //nolint:gosec // spreads load, guards nothing
}

// steady is how long a task must have run for the pauses to start small again.
const steady = time.Minute

// Repeat runs a task until ctx ends, and again whenever it returns, after a pause
// that grows up to five seconds. So a NATS that is away needs no handling in the
// task: it returns the error. One warning a minute is logged.
func Repeat(ctx context.Context, log *slog.Logger, name string, task func(context.Context) error) error {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 5 * time.Second
	var warnings journal.Throttle
	for {
		started := time.Now()
		err := task(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // ctx has ended, which is no failure
		}
		if time.Since(started) > steady {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		if warnings.Due() {
			log.Warn("a task failed and is repeated", "task", name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}
