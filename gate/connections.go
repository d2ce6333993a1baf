package gate

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Connections bounds the connections of a server. Above the bound it closes the
// connection that has been idle for the longest time, so that a client with many
// idle connections cannot block others. Set Track as the server's ConnState.
type Connections struct {
	most int64
	open atomic.Int64
	idle sync.Map // net.Conn to *atomic.Int64: since when, in Unix nanoseconds; 0 while it is used
}

// NewConnections returns a bound of most connections.
func NewConnections(most int) *Connections { return &Connections{most: int64(most)} }

// Track is called with each change of a connection's state.
func (c *Connections) Track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		since := new(atomic.Int64)
		since.Store(time.Now().UnixNano())
		c.idle.Store(conn, since)
		if c.open.Add(1) > c.most {
			c.closeIdlest()
		}
	case http.StateActive, http.StateIdle:
		if since, known := c.idle.Load(conn); known {
			at := int64(0)
			if state == http.StateIdle {
				at = time.Now().UnixNano()
			}
			since.(*atomic.Int64).Store(at)
		}
	case http.StateClosed, http.StateHijacked:
		if _, known := c.idle.LoadAndDelete(conn); known {
			c.open.Add(-1)
		}
	}
}

// closeIdlest closes the connection that has been idle for the longest time.
// There is one at least: the new one, which has sent no request yet.
func (c *Connections) closeIdlest() {
	var idlest net.Conn
	var since *atomic.Int64
	var longest int64
	c.idle.Range(func(conn, value any) bool {
		one := value.(*atomic.Int64)
		if at := one.Load(); at != 0 && (idlest == nil || at < longest) {
			idlest, since, longest = conn.(net.Conn), one, at
		}
		return true
	})
	if idlest != nil && since.CompareAndSwap(longest, 0) {
		_ = idlest.Close() // the server notices the closed connection
	}
}
