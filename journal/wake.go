package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// trusted is how long a connection is used without a check after the process
	// was frozen.
	trusted = 5 * time.Second
	// pong bounds the wait for the server's answer to a ping.
	pong = 500 * time.Millisecond
)

// Wake makes the connection usable after the process was frozen, as AWS Lambda does
// between invocations. It returns when the connection can be used, or an error
// when ctx ends. idle is how long the process may have been frozen.
//
// Firewalls drop an idle connection without a reset. So after a longer pause the
// server is pinged, and a new connection is made if it does not answer at once.
func (j *Journal) Wake(ctx context.Context, idle time.Duration) error {
	connected := j.conn.StatusChanged(nats.CONNECTED)
	defer j.conn.RemoveStatusListener(connected)
	if j.conn.IsConnected() && (idle < trusted || j.conn.FlushTimeout(pong) == nil) {
		return nil
	}
	// This also ends the backoff between two attempts to connect.
	if err := j.conn.ForceReconnect(); err != nil {
		return j.failed("wake up", err)
	}
	select {
	case <-connected:
		return nil
	case <-ctx.Done():
		return j.failed("wake up", ctx.Err())
	}
}
