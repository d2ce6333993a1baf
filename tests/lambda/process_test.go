package lambda_test

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rayexecutor/tests/system"
)

// TestThaw freezes the process for longer than a connection is trusted, and
// lets the network forget its connection meanwhile, without a word, as NAT
// gateways do: the invocation that thaws it is answered as any other, by a new
// connection.
func TestThaw(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	network := startNetwork(t, strings.TrimPrefix(sys.NATSURL(), "nats://"))
	s := launchStandIn(t, append(sys.Environ(), "NATS_URL=nats://"+network.address))
	f := function{tb: t, emulator: s}
	if failed := f.batch(message("1", cloudEvent("1", request("before")))); len(failed) != 0 {
		t.Fatalf("failed before: %v\n%s", failed, f.log())
	}
	if err := s.freeze(); err != nil {
		t.Fatal(err)
	}
	network.forget()
	<-time.After(6 * time.Second) // the subject is time itself: how long a process is frozen
	if err := s.thaw(); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if failed := f.batch(message("2", cloudEvent("2", request("after")))); len(failed) != 0 {
		t.Errorf("failed after the thaw: %v\n%s", failed, f.log())
	}
	t.Logf("the invocation after the thaw took %v", time.Since(started).Round(time.Millisecond))
}

// network passes connections on to a server until it forgets them.
type network struct {
	address string

	mu    sync.Mutex
	lines []*line
}

// line is one connection through a network.
type line struct {
	near, far net.Conn
	forgotten chan struct{}
}

func startNetwork(tb testing.TB, server string) *network {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n := &network{address: listener.Addr().String()}
	tb.Cleanup(func() {
		listener.Close()
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, line := range n.lines {
			line.near.Close()
			line.far.Close()
		}
	})
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			line := &line{near: near, far: far, forgotten: make(chan struct{})}
			n.mu.Lock()
			n.lines = append(n.lines, line)
			n.mu.Unlock()
			go line.carry(near, far)
			go line.carry(far, near)
		}
	}()
	return n
}

// carry takes what one side sends to the other, or nowhere once the line is
// forgotten.
func (l *line) carry(to io.Writer, from io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-l.forgotten:
		default:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// forget lets nothing more through on the connections that there are; once.
func (n *network) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, line := range n.lines {
		close(line.forgotten)
	}
}

// TestColdStart measures from the start of the process, which connects to NATS
// first, to the answer to its first submission, and says what the program
// weighs.
func TestColdStart(t *testing.T) {
	sys := setup(t)
	var took []time.Duration
	for i := range 5 {
		started := time.Now()
		f := launched(t, sys.Environ())
		if failed := f.batch(message("1", cloudEvent("cold", request("cold-"+string(rune('a'+i)))))); len(failed) != 0 {
			t.Fatalf("failed: %v\n%s", failed, f.log())
		}
		took = append(took, time.Since(started))
	}
	slices.Sort(took)
	t.Logf("cold start to the first accepted submission: median %v of %v", took[2].Round(time.Millisecond), took)
	for _, name := range []string{bootstrap(t), bootstrap(t) + ".zip"} {
		about, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MB", strings.TrimPrefix(name, system.Root()), float64(about.Size())/1e6)
	}
}

// TestEnd ends the process as Lambda does: it closes its connection and goes.
func TestEnd(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	s := launchStandIn(t, sys.Environ())
	f := function{tb: t, emulator: s}
	if failed := f.batch(message("1", cloudEvent("1", request("last")))); len(failed) != 0 {
		t.Fatalf("failed: %v\n%s", failed, f.log())
	}
	started := time.Now()
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("%v\n%s", err, s.log())
	}
	t.Logf("it ended after %v; Lambda kills after 500 ms", time.Since(started).Round(time.Millisecond))
}

func TestMalformedSetting(t *testing.T) {
	t.Parallel()
	s := launchStandIn(t, append(os.Environ(), "POOLS=Not A Pool"))
	if _, err := s.invoke(t.Context(), []byte("{}")); !errors.Is(err, errEnded) {
		t.Errorf("it goes on: %v", err)
	}
	s.log().Wait(t, "POOLS")
}
