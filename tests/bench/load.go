package main

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// call is one request of one caller; callers are numbered from 0, and each has
// one request under way at most.
type call func(ctx context.Context, caller int) error

// latencies are what an open load measured.
type latencies struct {
	mu        sync.Mutex
	histogram *hdrhistogram.Histogram
}

func newLatencies() *latencies {
	return &latencies{histogram: hdrhistogram.New(1_000, int64(10*time.Minute), 3)} // in ns
}

func (l *latencies) record(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.histogram.RecordValue(max(1_000, int64(took))) // nothing here takes 10 minutes
}

// at is a quantile, in milliseconds.
func (l *latencies) at(percent float64) float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return float64(l.histogram.ValueAtQuantile(percent)) / 1e6
}

// patience is how long what is under way may take after the end of a load.
const patience = 2 * time.Minute

// open puts an open load on a number of callers: `rate` requests a second are
// due, one after the other at even distance, and the next free caller sends the
// next one. Its latency counts from when it was due.
func open(ctx context.Context, callers int, rate float64, lasting time.Duration, do call) (*latencies, error) {
	ctx, cancel := context.WithTimeout(ctx, lasting+patience)
	defer cancel()
	total := max(1, int(rate*lasting.Seconds()))
	due := make(chan time.Time, total)
	took := newLatencies()
	err := each(ctx, callers, func(ctx context.Context, caller int) error {
		for at := range due {
			if err := do(ctx, caller); err != nil {
				return err
			}
			took.record(time.Since(at))
		}
		return nil
	}, func() {
		defer close(due)
		// The thread is given back as it was. It must not end: with it would end
		// the processes that it has started (Pdeathsig).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		timerSlack(1)
		defer timerSlack(0)
		begun := time.Now()
		for i := range total {
			at := begun.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			sleepUntil(at)
			due <- at
		}
	})
	return took, err
}

// closed keeps a number of callers busy and returns how many requests a second
// were answered in that time. What is under way at its end is awaited, and not
// counted.
func closed(ctx context.Context, callers int, lasting time.Duration, do call) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, lasting+patience)
	defer cancel()
	var answered atomic.Int64
	begun := time.Now()
	end := begun.Add(lasting)
	err = each(ctx, callers, func(ctx context.Context, caller int) error {
		for time.Now().Before(end) {
			if err := do(ctx, caller); err != nil {
				return err
			}
			if time.Now().Before(end) {
				answered.Add(1)
			}
		}
		return nil
	}, nil)
	return float64(answered.Load()) / lasting.Seconds(), err
}

// each runs the callers, and what feeds them, to their end; the first error
// ends all.
func each(ctx context.Context, callers int, run call, feed func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if feed != nil {
		go feed()
	}
	var wait sync.WaitGroup
	for caller := range callers {
		wait.Go(func() {
			if err := run(ctx, caller); err != nil {
				cancel(err)
			}
		})
	}
	wait.Wait()
	return context.Cause(ctx)
}

// sleepUntil sleeps in the kernel: the runtime's timers are a millisecond late
// when nothing else happens.
func sleepUntil(at time.Time) {
	for left := time.Until(at); left > 0; left = time.Until(at) {
		pause := syscall.NsecToTimespec(int64(left))
		_ = syscall.Nanosleep(&pause, nil) // interrupted: again
	}
}

// timerSlack lets the kernel wake this thread so many ns late; 0 is its default
// of 50 µs.
func timerSlack(ns uintptr) {
	const setTimerSlack = 29
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setTimerSlack, ns, 0)
}
