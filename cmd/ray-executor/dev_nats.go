//go:build !image

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsPatience is how long the embedded NATS may take to start: it reads its
// journal first.
const natsPatience = 2 * time.Minute

// startNATS starts a NATS server with JetStream in this process, unless
// NATS_URL names one. Its journal outlives it.
func (d *dev) startNATS(ctx context.Context) error {
	if !d.ownNATS() {
		return nil
	}
	var embedded *server.Server
	err := during(d.say, "NATS is still reading its journal", func() (err error) {
		embedded, err = runNATS(ctx, filepath.Join(d.data, "nats"), 4222)
		return err
	})
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() { stopNATS(embedded) })
	d.given["NATS_URL"] = embedded.ClientURL()
	d.sayf("NATS %s on %s, its journal in %s", server.VERSION, embedded.ClientURL(), filepath.Join(d.data, "nats"))
	return nil
}

// runNATS runs a server on a port of the loopback, or on another where it is
// taken.
func runNATS(ctx context.Context, store string, port int) (*server.Server, error) {
	if listener, err := listen(ctx, loopback[0], port); err != nil {
		port = server.RANDOM_PORT
	} else if err := listener.Close(); err != nil {
		return nil, err
	}
	embedded, err := tryNATS(ctx, store, port)
	if errors.Is(err, syscall.EADDRINUSE) { // somebody was quicker
		embedded, err = tryNATS(ctx, store, server.RANDOM_PORT)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	return embedded, nil
}

func tryNATS(ctx context.Context, store string, port int) (*server.Server, error) {
	options := &server.Options{
		ServerName: "ray-executor-dev", Host: loopback[0], Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: store,
		// dev has looked at the disk; the server would take what free disk there
		// is at its start for all that its streams may ever reserve.
		JetStreamMaxStore: server.JetStreamMaxStoreDefault,
	}
	embedded, err := server.NewServer(options)
	if err != nil {
		return nil, err
	}
	log := &natsLog{failed: make(chan error, 1)}
	embedded.SetLoggerV2(log, false, false, false)
	go embedded.Start()
	if err := awaitNATS(ctx, embedded, log.failed); err != nil {
		stopNATS(embedded)
		return nil, err
	}
	return embedded, nil
}

func awaitNATS(ctx context.Context, embedded *server.Server, failed <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, natsPatience)
	defer cancel()
	for {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("it did not start: %w", ctx.Err())
		default:
		}
		if embedded.ReadyForConnections(50 * time.Millisecond) {
			return nil
		}
	}
}

func stopNATS(embedded *server.Server) {
	embedded.Shutdown()
	embedded.WaitForShutdown()
}

// natsLog hears why the server cannot start: an embedded one says it nowhere
// else.
type natsLog struct {
	once   sync.Once
	failed chan error
}

// Fatalf is told once; the first reason is the one.
func (l *natsLog) Fatalf(format string, values ...any) {
	l.once.Do(func() {
		failure := natsError{text: fmt.Sprintf(format, values...)}
		for _, value := range values {
			if err, ok := value.(error); ok {
				failure.cause = err
			}
		}
		l.failed <- failure
	})
}

// Errorf is not told: what the callers see, they are told themselves.
func (*natsLog) Errorf(string, ...any) {}

// Warnf is not told.
func (*natsLog) Warnf(string, ...any) {}

// Noticef is not told.
func (*natsLog) Noticef(string, ...any) {}

// Debugf is not told.
func (*natsLog) Debugf(string, ...any) {}

// Tracef is not told.
func (*natsLog) Tracef(string, ...any) {}

// natsError is why the server cannot start.
type natsError struct {
	text  string
	cause error
}

// Error implements error.
func (f natsError) Error() string { return f.text }

// Unwrap is what the server was told by the system.
func (f natsError) Unwrap() error { return f.cause }
