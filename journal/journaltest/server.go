// Package journaltest gives tests a real journal: an embedded nats-server, or
// three, with a store of their own, and a writer that does what a Ray worker
// does.
package journaltest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
)

// patience is how long anything in a test may take.
const patience = await.Limit

// Server is an embedded nats-server with JetStream.
type Server struct {
	// URL stays the same over Restart.
	URL string

	tb      testing.TB
	options *server.Options
	running *server.Server
}

// Start runs a server until the test ends. Its store is a directory of the
// test's; change may alter its options.
func Start(tb testing.TB, change ...func(*server.Options)) *Server {
	tb.Helper()
	options := &server.Options{
		Host: "127.0.0.1", Port: freeport.For(tb), NoLog: true, NoSigs: true, // free again for Restart
		JetStream: true, StoreDir: tb.TempDir(),
	}
	for _, alter := range change {
		alter(options)
	}
	s := &Server{tb: tb, options: options}
	s.Restart()
	tb.Cleanup(s.Stop)
	return s
}

// Name is the server's own.
func (s *Server) Name() string { return s.running.Name() }

// Stop shuts the server down; its store stays. Stopping twice is fine.
func (s *Server) Stop() {
	s.running.Shutdown()
	s.running.WaitForShutdown()
}

// Restart starts the server on its store and port.
func (s *Server) Restart() {
	s.tb.Helper()
	running, err := server.NewServer(s.options)
	if err != nil {
		s.tb.Fatalf("make a nats-server: %v", err)
	}
	running.Start()
	if !running.ReadyForConnections(patience) {
		s.tb.Fatal("the nats-server did not start")
	}
	s.running = running
	s.URL = running.ClientURL()
}

// Cluster runs n servers as one cluster until the test ends and waits until
// JetStream has a leader on it.
func Cluster(tb testing.TB, n int) []*Server {
	tb.Helper()
	routes := make([]string, n)
	for i := range routes {
		routes[i] = fmt.Sprintf("nats://127.0.0.1:%d", freeport.For(tb))
	}
	servers := make([]*Server, n)
	for i := range servers {
		servers[i] = startMember(tb, i, routes)
	}
	waitFor(tb, "the cluster to elect a leader", func() bool {
		for _, s := range servers {
			if s.running.JetStreamIsLeader() && len(s.running.JetStreamClusterPeers()) == n {
				return true
			}
		}
		return false
	})
	return servers
}

func startMember(tb testing.TB, i int, routes []string) *Server {
	tb.Helper()
	options := &server.Options{
		ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: freeport.For(tb), NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: tb.TempDir(), Routes: server.RoutesFromStr(join(routes)),
		Cluster: server.ClusterOpts{Name: "journaltest", Host: "127.0.0.1", Port: portOf(tb, routes[i])},
	}
	running, err := server.NewServer(options)
	if err != nil {
		tb.Fatalf("make a nats-server: %v", err)
	}
	running.Start()
	s := &Server{tb: tb, options: options, running: running}
	tb.Cleanup(s.Stop)
	if !running.ReadyForConnections(patience) {
		tb.Fatal("the nats-server did not start")
	}
	s.URL = running.ClientURL()
	return s
}

// Dial connects to a server with a client of the test's own.
func Dial(tb testing.TB, url string) (*nats.Conn, jetstream.JetStream) {
	tb.Helper()
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		tb.Fatalf("connect to %s: %v", url, err)
	}
	tb.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		tb.Fatalf("JetStream: %v", err)
	}
	return conn, js
}

// Messages reads what a stream holds on a subject, which may have wildcards,
// in its order.
func Messages(tb testing.TB, url, stream, subject string) []*jetstream.RawStreamMsg {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, js := Dial(tb, url)
	held, err := js.Stream(ctx, stream)
	if err != nil {
		tb.Fatalf("read the stream %s: %v", stream, err)
	}
	var messages []*jetstream.RawStreamMsg
	for sequence := uint64(1); ; {
		message, err := held.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(subject))
		if err != nil {
			return messages
		}
		messages = append(messages, message)
		sequence = message.Sequence + 1
	}
}

// waitFor asks until something holds: servers elect and recover without
// telling.
func waitFor(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	await.True(tb, what, holds)
}
