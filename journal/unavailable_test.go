package journal_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// calls is one of each operation that needs NATS.
func calls(ctx context.Context, j *journal.Journal) map[string]error {
	errs := map[string]error{}
	_, errs["accept"] = j.Accept(ctx, journaltest.Record("lost", 1, 300), "")
	_, errs["end"] = j.End(ctx, "lost", failed("lost"), "")
	_, errs["history"] = j.Read(ctx, "lost")
	_, errs["leader"] = j.ReadLeader(ctx, "lost")
	_, _, errs["page"] = j.Page(ctx, deliberation.Query{Size: 1})
	_, _, errs["ledger"] = j.Ledger(ctx)
	_, _, errs["snapshot"] = j.SaveSnapshot(ctx, deliberation.Snapshot{}, 0)
	errs["catch up"] = j.CatchUp(ctx, deliberation.NewLedger(nil))
	errs["follow"] = j.Follow(ctx, 1, func(deliberation.Mark) {})
	errs["ends"] = j.Ends(ctx, journal.Announcer, func(context.Context, journal.Delivery) error { return nil })
	errs["announce"] = j.Announce(ctx, "orchestration.deliberation.failed", "lost.done", nil, nil)
	_, errs["offload"] = j.Offload(ctx, failed("lost"))
	_, errs["dead list"] = j.ListDeadLetters(ctx)
	_, errs["dead show"] = j.ReadDeadLetter(ctx, "lost")
	errs["dead retry"] = j.DeleteDeadLetter(ctx, "lost")
	return errs
}

func TestNATSUnavailable(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 1)
	w.server.Stop()
	await.True(t, "the disconnect", func() bool { return w.Ready(t.Context()) != nil })

	started := time.Now()
	for name, err := range calls(t.Context(), w.Journal) {
		if refused := wantCode(t, err, deliberation.Unavailable); refused.RetryAfter <= 0 || refused.Field == "" {
			t.Errorf("%s: got %+v", name, refused)
		}
	}
	if took := time.Since(started); took > 20*time.Second { // one wait a call would take longer
		t.Errorf("it took %s to return Unavailable", took)
	}

	w.server.Restart()
	await.True(t, "the reconnect", func() bool { return w.Ready(t.Context()) == nil })
	w.wantBoth(t, "d1", status("queued"))
	if n := w.messages(t, "deliberation.*.*.lost"); n != 0 {
		t.Errorf("%d messages were sent after their callers received an error", n)
	}
}

func TestNATSSilent(t *testing.T) {
	t.Parallel()
	s := journaltest.Start(t)
	journaltest.Connect(t, s.URL)
	proxy := startProxy(t, s.URL)
	j := journaltest.Undeployed(t, journal.Settings{URL: "nats://" + proxy.address, Wait: 300 * time.Millisecond})
	await.True(t, "the connection", func() bool { return j.Ready(t.Context()) == nil })
	proxy.freeze()

	// Those who wait for one answer wait together.
	started := time.Now()
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			_, err := j.Accept(t.Context(), journaltest.Record(fmt.Sprintf("d%d", i), 1, 300), "")
			wantCode(t, err, deliberation.Unavailable)
		})
	}
	group.Wait()
	if took := time.Since(started); took > 30*time.Second { // one after the other they take a minute
		t.Errorf("200 callers waited %s for a server that is silent", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := j.Read(ctx, "d1")
	wantCode(t, err, deliberation.Unavailable)
}

// TestLostAcknowledgement stores a request whose writer receives no acknowledgement.
func TestLostAcknowledgement(t *testing.T) {
	t.Parallel()
	s := journaltest.Start(t)
	direct := journaltest.Connect(t, s.URL)
	proxy := startProxy(t, s.URL)
	j := journaltest.Undeployed(t, journal.Settings{URL: "nats://" + proxy.address, Wait: 500 * time.Millisecond})
	await.True(t, "the connection", func() bool {
		_, err := j.Accept(t.Context(), journaltest.Record("before", 1, 300), "")
		return err == nil
	})
	proxy.freeze()
	record := journaltest.Record("d1", 1, 300)
	_, err := j.Accept(t.Context(), record, "")
	wantCode(t, err, deliberation.Unavailable)
	wantEqual(t, must[*pb.DeliberationRequested](t)(direct.Accept(t.Context(), record, "")), record)

	_, err = j.End(t.Context(), "d1", failed("d1"), "")
	wantCode(t, err, deliberation.Unavailable)
	if won := must[bool](t)(direct.End(t.Context(), "d1", failed("d1"), "")); won {
		t.Error("it ended twice")
	}
}

func TestNotDeployed(t *testing.T) {
	t.Parallel()
	s := journaltest.Start(t)
	j := journaltest.Undeployed(t, journal.Settings{URL: s.URL})
	await.True(t, "the connection", func() bool {
		err := j.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "ray-executor deploy")
	})
	for name, err := range calls(t.Context(), j) {
		if refused := wantCode(t, err, deliberation.Unavailable); !strings.Contains(refused.Message, "ray-executor deploy") {
			t.Errorf("%s: %q does not say what to do", name, refused.Message)
		}
	}
}

func TestServerTooOld(t *testing.T) {
	t.Parallel()
	j := journaltest.Undeployed(t, journal.Settings{URL: "nats://" + pretend(t, "2.11.9")})
	for name, call := range map[string]func() error{
		"ready":  func() error { return j.Ready(t.Context()) },
		"deploy": func() error { return j.Deploy(t.Context(), journaltest.Layout()) },
	} {
		await.True(t, "what "+name+" says", func() bool {
			err := call()
			return err != nil && strings.Contains(err.Error(), "2.12 or newer is needed; the server is 2.11.9")
		})
	}
}

func TestPasswordsAreRedacted(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	locked := journaltest.Start(t, func(options *server.Options) { options.Username, options.Password = "u", "other" })
	log := &logged{}
	for _, url := range []string{
		strings.Replace(locked.URL, "nats://", "nats://u:"+secret+"@", 1),
		"nats://u:" + secret + "@127.0.0.1:1",
		"nats://u:" + secret + "@127.0.0.1:1,nats://" + secret + "@127.0.0.1:2",
		"nats://u:" + secret + "%zz@127.0.0.1:1",
		"nats://u:" + secret + "@127.0.0.1:port",
		"nats://u:" + secret + "@[::1",
		"nats://u:" + secret + " @127.0.0.1:1",
		secret + "@ :x",
	} {
		j, err := journal.Connect(journal.Settings{URL: url, Log: slog.New(slog.NewTextHandler(log, nil))})
		if err == nil {
			defer j.Close()
			err = j.Ready(t.Context())
		}
		if err == nil {
			t.Fatalf("%s works", url)
		}
		for cause := err; cause != nil; cause = unwrap(cause) {
			if strings.Contains(cause.Error(), secret) {
				t.Errorf("the password is shown: %s", cause)
			}
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("the password is logged: %s", log)
	}
}

// TestAuthorizationIsTriedAgain starts with a password that the server does
// not take yet.
func TestAuthorizationIsTriedAgain(t *testing.T) {
	t.Parallel()
	var refuse *server.Options
	s := journaltest.Start(t, func(options *server.Options) { options.Username, options.Password, refuse = "u", "old", options })
	j := journaltest.Undeployed(t, journal.Settings{URL: strings.Replace(s.URL, "nats://", "nats://u:new@", 1)})
	await.True(t, "several refusals", func() bool {
		err := j.Ready(t.Context())
		return err != nil && strings.Contains(strings.ToLower(err.Error()), "authorization")
	})
	s.Stop()
	refuse.Password = "new"
	s.Restart()
	await.True(t, "the connection", func() bool { return j.Deploy(t.Context(), journaltest.Layout()) == nil })
}

func unwrap(err error) error {
	if wrapper, ok := err.(interface{ Unwrap() error }); ok {
		return wrapper.Unwrap()
	}
	return nil
}

// logged is a log that can be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// pretend is a server of some version that completes the handshake.
func pretend(t *testing.T, version string) string {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	var group sync.WaitGroup
	t.Cleanup(func() { listener.Close(); group.Wait() })
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				fmt.Fprintf(conn, "INFO {\"server_id\":\"x\",\"version\":%q,\"max_payload\":1048576,\"headers\":true,\"jetstream\":true}\r\n", version)
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					if lines.Text() == "PING" {
						fmt.Fprint(conn, "PONG\r\n")
					}
				}
			})
		}
	})
	return listener.Addr().String()
}

// proxy is between a client and a server, and can lose what the server
// says from then on.
type proxy struct {
	address string
	frozen  chan struct{}
}

func (p *proxy) freeze() { close(p.frozen) }

func startProxy(t *testing.T, url string) *proxy {
	t.Helper()
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	p := &proxy{address: listener.Addr().String(), frozen: make(chan struct{})}
	var group sync.WaitGroup
	t.Cleanup(func() { listener.Close(); group.Wait() })
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream := must[net.Conn](t)(net.Dial("tcp", strings.TrimPrefix(url, "nats://")))
			group.Go(func() { pass(client, upstream, make(chan struct{})) })
			group.Go(func() { pass(upstream, client, p.frozen) })
		}
	})
	return p
}

func pass(from, to net.Conn, frozen chan struct{}) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-frozen: // and what was read is lost
		default:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}
