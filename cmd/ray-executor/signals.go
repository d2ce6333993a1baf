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

// secondAsk is how long after the first a signal counts as asked again: a
// terminal that is closed sends several.
const secondAsk = 500 * time.Millisecond

// untilStopped returns a context that ends when the process is asked to stop:
// by Ctrl-C, by SIGTERM, or by SIGHUP, which a closed terminal sends. hurry is
// closed when it is asked again; after that a signal ends it at once.
func untilStopped() (ctx context.Context, hurry <-chan struct{}) {
	signals := make(chan os.Signal, 4)
	asked := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup wants it
		asked = append(asked, syscall.SIGHUP)
	}
	signal.Notify(signals, asked...)
	ctx, cancel := context.WithCancel(context.Background())
	again := make(chan struct{})
	go func() {
		<-signals
		cancel()
		for first := time.Now(); ; {
			<-signals
			if time.Since(first) >= secondAsk {
				break
			}
		}
		close(again)
		signal.Stop(signals)
	}()
	return ctx, again
}

// untilHurried returns a context that ends with another, or when hurry is
// closed.
func untilHurried(ctx context.Context, hurry <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// untilBroken returns a context that ends when nobody reads the output any
// more, as in `dev | head`: SIGPIPE would end the process where it stands.
func untilBroken(ctx context.Context, out io.Writer) (context.Context, io.Writer) {
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancel(ctx)
	return ctx, output{out, cancel}
}

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
