// Package await waits in tests for a condition or for a line of output, so that
// no test sleeps for a guessed time.
package await

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// Limit is how long a test waits before it fails. A loaded machine needs many
// times the seconds of an idle one, and only a failure waits so long.
const Limit = 2 * time.Minute

// The pause between two checks grows from shortest to longest: a check may cost
// a process.
const shortest, longest = 10 * time.Millisecond, 250 * time.Millisecond

var errNot = errors.New("it does not hold")

// Until calls check until it returns nil. Where ctx ends first it returns
// check's last error, with what was waited for.
func Until(ctx context.Context, what string, check func() error) error {
	for pause := shortest; ; pause = min(pause*3/2, longest) {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// NoError calls check until it returns nil, and fails the test with check's last
// error after Limit.
func NoError(tb testing.TB, what string, check func() error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), Limit)
	defer cancel()
	if err := Until(ctx, what, check); err != nil {
		tb.Fatal(err)
	}
}

// True calls holds until it returns true, and fails the test after Limit.
func True(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	NoError(tb, what, func() error {
		if holds() {
			return nil
		}
		return errNot
	})
}

// Receive returns the next value of a channel, and fails the test where none
// comes within Limit.
func Receive[T any](tb testing.TB, what string, values <-chan T) T {
	tb.Helper()
	select {
	case value := <-values:
		return value
	case <-time.After(Limit):
		tb.Fatalf("waiting for %s: nothing came within %s", what, Limit)
		panic("unreachable")
	}
}
