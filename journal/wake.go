package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// trusted is for how long a connection that worked is taken to work still,
	// by a process that may have been frozen in between.
	trusted = 5 * time.Second
	// pong bounds the answer of a server that is asked whether it is there.
	pong = 500 * time.Millisecond
)

// Wake is for a process that may have been frozen, as AWS Lambda does between
// invocations: it returns once the connection can be used, or with why not
// when ctx ends. idle is how long the process may have stood still. Firewalls
// forget a quiet connection without a word, so after a while the server is
// asked whether it is there, and one that does not answer at once is dialled
// anew.
func (j *Journal) Wake(ctx context.Context, idle time.Duration) error {
	connected := j.conn.StatusChanged(nats.CONNECTED)
	defer j.conn.RemoveStatusListener(connected)
	if j.conn.IsConnected() && (idle < trusted || j.conn.FlushTimeout(pong) == nil) {
		return nil
	}
	// This also ends a pause between two attempts to connect.
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
