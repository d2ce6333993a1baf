// Package freeport gives tests TCP ports of the loopback that stay free until
// the test listens on them.
//
// A port that the kernel chooses (":0") and that is closed again is not safe:
// the kernel may give it to another process, or to an outgoing connection,
// before the test uses it. The ports here lie above those that the kernel hands
// out, and a locked file claims each of them for this process.
package freeport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// The kernel hands out 32768 to 60999 unless it is configured otherwise, and
// ray/local gives its Rays 20000 to 31999.
const first, count = 61_000, 4_000

var (
	mu sync.Mutex
	// next is where the search goes on: a port comes again only after all others.
	next = rand.IntN(count)
	// claims are the locked files, by port. The kernel unlocks them when this
	// process ends, however it ends.
	claims = make(map[int]*os.File)
)

// Take returns a port that nothing listens on. It belongs to this process until
// that ends: a part that is stopped finds its port free when it starts again.
func Take() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	folder := filepath.Join(os.TempDir(), "ray-executor-test-ports-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return 0, fmt.Errorf("claim a port: %w", err)
	}
	for range count {
		port := first + next
		next = (next + 1) % count
		claimed, err := claim(port, filepath.Join(folder, strconv.Itoa(port)))
		if err != nil {
			return 0, fmt.Errorf("claim port %d: %w", port, err)
		}
		if claimed && isFree(port) {
			return port, nil
		}
		if claimed {
			drop(port)
		}
	}
	return 0, fmt.Errorf("no free port from %d to %d", first, first+count-1)
}

// For is Take for a test: the port is the test's until its end. The test fails
// where no port is free.
func For(tb testing.TB) int {
	tb.Helper()
	port, err := Take()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { release(port) })
	return port
}

// Address is a free port of the loopback as host:port.
func Address(tb testing.TB) string {
	tb.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(For(tb)))
}

// claim locks a port's file; it returns false where somebody has the lock.
func claim(port int, path string) (bool, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == syscall.EWOULDBLOCK { //nolint:errorlint // the system call's own
		return false, file.Close()
	}
	if err != nil {
		return false, err
	}
	claims[port] = file
	return true, nil
}

func release(port int) {
	mu.Lock()
	defer mu.Unlock()
	drop(port)
}

func drop(port int) {
	_ = claims[port].Close() // unlocks; nothing was written
	delete(claims, port)
}

// isFree reports whether the port can be listened on now: a program outside
// these tests may have it.
func isFree(port int) bool {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	return err == nil && listener.Close() == nil
}
