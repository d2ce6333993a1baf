// How the process stops: on a signal, on a second one, or when nobody reads
// its output.

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// secondAfter is the pause after which another signal counts as a second
// request. A closed terminal sends several signals at once.
const secondAfter = 500 * time.Millisecond

// untilStopped returns a context that ends at the first signal: SIGINT (Ctrl-C),
// SIGTERM, or SIGHUP of a closed terminal. Its cause is a signalError. force is closed at the second one.
// The third ends the process by the system's default.
func untilStopped() (ctx context.Context, force <-chan struct{}) {
	signals := make(chan os.Signal, 4)
	stopping := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup ignores it
		stopping = append(stopping, syscall.SIGHUP)
	}
	signal.Notify(signals, stopping...)
	ctx, cancel := context.WithCancelCause(context.Background())
	second := make(chan struct{})
	go func() {
		cancel(signalError{<-signals})
		for first := time.Now(); ; {
			<-signals
			if time.Since(first) >= secondAfter {
				break
			}
		}
		close(second)
		signal.Stop(signals)
	}()
	return ctx, second
}

// untilForced returns a context that ends with its parent, or when force is
// closed.
func untilForced(ctx context.Context, force <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-force:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// untilBroken returns a context that ends when the reader of the output has
// closed it, as in `dev | head`. By default SIGPIPE would end the process at
// once, and leave Ray running.
func untilBroken(ctx context.Context, out io.Writer) (context.Context, io.Writer) {
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(ctx)
	return ctx, output{out, cancel}
}

// output calls broken when a write fails with EPIPE.
type output struct {
	io.Writer

	broken func()
}

func (o output) Write(data []byte) (int, error) {
	n, err := o.Writer.Write(data)
	if errors.Is(err, syscall.EPIPE) {
		o.broken()
	}
	return n, err
}
