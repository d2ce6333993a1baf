// Package gate bounds what all callers together take of one instance: concurrent
// requests, streams, connections, and the memory of bodies and replies. Every
// handler for callers is behind it.
//
// A request above a limit waits for a moment, and is then refused as LimitReached;
// repeating it is safe. What a request holds is released when it has been
// answered. Code behind the gate reserves memory with Take, or with Borrow if it
// can release it earlier.
package gate

import (
	"math"
	"runtime/debug"
)

// Limits is how much all callers together may take of one instance.
type Limits struct {
	// Requests are answered at once; Streams are open at once.
	Requests, Streams int
	// Connections are open at once, on all ports.
	Connections int
	// Reads of the journal run at once. Each may be answered with 1.4 MB,
	// and nats-server cuts a client that is 64 MB behind.
	Reads int
	// Bytes are in memory at once: of bodies, of what is read to reply, and of
	// what streams send. They are separate, so that filling one leaves the others
	// free. Small sizes are not counted: Requests bounds them.
	Bodies, Replies, Sends int64
}

const (
	// MaxBody is the largest body of a request, after decompression: a batch,
	// or 1 MiB in base64 with its attributes.
	MaxBody = 8 << 20
	// small is what a request may hold without being counted.
	small = 16 << 10
)

// For returns the limits that fit a memory limit in bytes. What each takes was
// measured: a stream 53 KB, an idle connection 20 KB, a body up to eight times
// its size while it is read and decoded.
func For(memory int64) Limits {
	streams := clamp(memory>>18, 64, 4096)
	return Limits{
		Requests: streams, Streams: streams, Connections: 2 * streams,
		Reads:  clamp(memory>>25, 4, 32),
		Bodies: int64(clamp(memory>>4, MaxBody, 64<<20)), Replies: int64(clamp(memory>>5, MaxBody, 64<<20)),
		Sends: int64(clamp(memory>>6, MaxBody/2, 32<<20)),
	}
}

// ForProcess returns the limits that fit this process's GOMEMLIMIT.
func ForProcess() Limits { return For(debug.SetMemoryLimit(-1)) }

func clamp(n int64, low, high int) int {
	return int(min(max(n, int64(low)), int64(high), math.MaxInt32))
}
