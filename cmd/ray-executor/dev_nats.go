//go:build !image

// The NATS server that dev runs in its own process.

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

// natsTimeout bounds the start of the embedded NATS, which reads its journal
// first.
const natsTimeout = 2 * time.Minute

// startNATS starts a NATS server with JetStream, unless NATS_URL names one. The
// next dev in the same folder continues with the journal.
func (d *dev) startNATS(ctx context.Context) error {
	if !d.startsNATS() {
		return nil
	}
	var embedded *server.Server
	err := during(d.report, "NATS is reading its journal", func() (err error) {
		embedded, err = runNATS(ctx, filepath.Join(d.data, "nats"), 4222)
		return err
	})
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() { stopNATS(embedded) })
	d.given["NATS_URL"] = embedded.ClientURL()
	d.reportf("NATS %s on %s, journal in %s", server.VERSION, embedded.ClientURL(), filepath.Join(d.data, "nats"))
	return nil
}

// runNATS runs a server on a port of the loopback interface, or on a free port
// if that one is taken.
func runNATS(ctx context.Context, store string, port int) (*server.Server, error) {
	if listener, err := listen(ctx, loopback[0], port); err != nil {
		port = server.RANDOM_PORT
	} else if err := listener.Close(); err != nil {
		return nil, err
	}
	embedded, err := tryNATS(ctx, store, port)
	if errors.Is(err, syscall.EADDRINUSE) { // another process took the port after the test above
		embedded, err = tryNATS(ctx, store, server.RANDOM_PORT)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	return embedded, nil
}

// tryNATS runs a server on one port. On an error nothing runs, so that it can be
// tried again with another port.
func tryNATS(ctx context.Context, store string, port int) (*server.Server, error) {
	options := &server.Options{
		ServerName: "ray-executor-dev", Host: loopback[0], Port: port, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: store,
		// The default limit is the disk that is free at the start, which would
		// refuse streams that already use a part of it. dev checks the disk itself.
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

// awaitNATS waits until the server accepts connections: it reads its journal first,
// for minutes after a crash.
func awaitNATS(ctx context.Context, embedded *server.Server, failed <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, natsTimeout)
	defer cancel()
	for {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("no start within %s: %w", natsTimeout, ctx.Err())
		default:
		}
		if embedded.ReadyForConnections(50 * time.Millisecond) {
			return nil
		}
	}
}

// stopNATS returns once the store is closed: the next dev may open it at once.
func stopNATS(embedded *server.Server) {
	embedded.Shutdown()
	embedded.WaitForShutdown()
}

// natsLog catches the reason why the server cannot start. The server's API has
// no other way to get it.
type natsLog struct {
	once   sync.Once
	failed chan error
}

// Fatalf passes on the first reason; the ones after it follow from it.
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

// Errorf drops the message: a client that is concerned gets an error itself.
func (*natsLog) Errorf(string, ...any) {}

// Warnf drops the message.
func (*natsLog) Warnf(string, ...any) {}

// Noticef drops the message.
func (*natsLog) Noticef(string, ...any) {}

// Debugf drops the message.
func (*natsLog) Debugf(string, ...any) {}

// Tracef drops the message.
func (*natsLog) Tracef(string, ...any) {}

// natsError is why the server cannot start.
type natsError struct {
	text  string
	cause error
}

// Error implements error.
func (f natsError) Error() string { return f.text }

// Unwrap returns the system's error, such as EADDRINUSE.
func (f natsError) Unwrap() error { return f.cause }
