// Package journal stores every event of every deliberation in the JetStream stream
// DELIBERATIONS. The stream is the only state of the system.
//
// # Writing
//
// The server's compare-and-set makes events unique: one request per id, one start
// per attempt, one result per agent, one end. Whoever stores the first one wins;
// all others read it. So every write is safe to repeat, by the same process or by
// another one, and no lock or lease is needed. See [Journal.Accept] and
// [Journal.End].
//
// # Reading
//
// A replica may lag behind an acknowledged write. Decisions are read from the
// stream's leader ([Journal.ReadLeader]); answers to callers come from any replica
// if that cannot contradict an earlier answer ([Journal.Read]).
//
// # Order and time
//
// The stream gives each message a sequence and a time. Sequences order all events
// of all deliberations, without a repeat; messages that expired leave gaps. The
// journal's time is the only clock for deadlines ([Journal.Now]): the clocks of
// workers and keepers are never compared.
//
// # Bounds
//
// Large fields are offloaded to an object store. A full journal refuses requests
// before it refuses the events of accepted deliberations. [Journal.Deploy] creates
// all streams, buckets and consumers.
package journal

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"
)

// Names on the server, behind the prefix of Settings.
const (
	// Stream is the journal.
	Stream = "DELIBERATIONS"
	// Announcements is the stream of the announced ends, for the Orchestrator.
	Announcements = "ORCHESTRATION_EVENTS"
	// Results is the object store for offloaded fields.
	Results = "DELIBERATION_RESULTS"
	// Statistics is the key-value bucket of the ledger's snapshot.
	Statistics = "DELIBERATION_STATS"
)

// Settings is how to connect to NATS.
type Settings struct {
	URL string
	// Creds is a file with a user's credentials, CA one with the server's
	// certificate authority; both may be empty.
	Creds string
	CA    string
	// Login is used if neither URL nor Creds have a login.
	Login Login
	// Prefix begins the name of every stream and bucket; it may be empty. Subjects
	// have no prefix.
	Prefix string
	// Name is the name of this client in the server's lists.
	Name string
	// Wait bounds each request to the server. 0: 5 s.
	Wait time.Duration
	Log  *slog.Logger
}

// Journal is a connection to the journal. It is safe for concurrent use. It has no
// state besides caches and counters: any number of processes may use one journal.
type Journal struct {
	conn             *nats.Conn
	js               jetstream.JetStream
	prefix           string
	wait             time.Duration
	log              *slog.Logger
	connectionErrors *connectionErrors
	capacity         capacity
	beats            heartbeats
	refreshes        singleflight.Group // one refresh at a time of the capacity, and of the heartbeats
	reached          atomic.Bool

	endFailures Throttle // bounds the log of ends that could not be handled
	unreadable  *unreadable
	terminated  *prometheus.CounterVec // ends that a reader can never handle
}

// Connect starts to connect and returns at once. It tries again without limit, and
// until there is a connection every call returns Unavailable.
//
// Nothing is buffered while the connection is down: a message must not be sent
// after its caller has received an error. An error of Connect names the setting
// at fault, such as a file that cannot be read.
func Connect(settings Settings) (*Journal, error) {
	if settings.Wait == 0 {
		settings.Wait = 5 * time.Second
	}
	if err := settings.readable(); err != nil {
		return nil, err
	}
	connectionErrors := &connectionErrors{waiting: map[*context.CancelCauseFunc]struct{}{}}
	conn, err := nats.Connect(settings.URL, options(settings, connectionErrors)...)
	if err != nil {
		return nil, fmt.Errorf("NATS_URL: %w", withoutURL(err))
	}
	// Each request that has no earlier deadline ends after Wait.
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(settings.Wait))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return &Journal{
		conn: conn, js: js, prefix: settings.Prefix, wait: settings.Wait, log: settings.Log, connectionErrors: connectionErrors, unreadable: newUnreadable(),
		terminated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ray_executor_ends_set_aside_total", Help: "Ends that could never be handled, by reader; the log names each.",
		}, []string{"reader"}),
	}, nil
}

// name is the full name of a stream or bucket on the server.
func (j *Journal) name(of string) string { return j.prefix + of }

// readable checks that the files can be read. nats.go reads the credentials again
// at each connect, so they may be rotated.
func (s *Settings) readable() error {
	if s.CA != "" {
		if pem, err := os.ReadFile(s.CA); err != nil {
			return fmt.Errorf("NATS_CA: %w", err)
		} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return fmt.Errorf("NATS_CA: %s holds no certificate in PEM", s.CA)
		}
	}
	if s.Creds != "" {
		if _, err := os.ReadFile(s.Creds); err != nil {
			return fmt.Errorf("NATS_CREDS: %w", err)
		}
	}
	return nil
}

// options are those of nats.go: it reconnects without limit and buffers nothing.
func options(settings Settings, connectionErrors *connectionErrors) []nats.Option {
	options := []nats.Option{
		nats.Name(settings.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1),
		// A refused login may come from a server in the middle of its setup. By
		// default nats.go stops for good at the second refusal.
		nats.IgnoreAuthErrorAbort(),
		// A connection that is dead without a reset is noticed within a minute.
		nats.PingInterval(20 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				settings.Log.Warn("the connection to NATS is lost; trying again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			connectionErrors.connected()
			settings.Log.Info("the connection to NATS is restored", "server", conn.ConnectedUrlRedacted())
		}),
		nats.ReconnectErrHandler(connectionErrors.failedToConnect),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			connectionErrors.reported(err)
			settings.Log.Warn("NATS reports an error", "error", err)
		}),
	}
	if settings.Creds != "" {
		options = append(options, nats.UserCredentials(settings.Creds))
	}
	if settings.CA != "" {
		options = append(options, nats.RootCAs(settings.CA))
	}
	return append(options, settings.Login.options(settings.URL)...)
}

// Close flushes and closes the connection. It is safe to repeat.
func (j *Journal) Close() {
	if err := j.conn.FlushTimeout(time.Second); err != nil {
		j.log.Debug("flush at close", "error", err)
	}
	j.conn.Close()
}

// Ready is nil once the journal's state was read. Until then each call tries to
// read it. Later it remains nil when NATS cannot be reached: each operation has an
// error of its own, and a process that is not ready would get no requests. An old
// server or a missing stream is an error that says what to do.
func (j *Journal) Ready(ctx context.Context) error {
	if j.reached.Load() {
		return nil
	}
	if err := j.checkServer(); err != nil {
		return err
	}
	if _, err := j.info(ctx); err != nil {
		return err
	}
	j.reached.Store(true)
	return nil
}

// info reads the stream's state from its leader. Only the leader answers requests
// for a stream's state, and it adds the contacts of its followers.
func (j *Journal) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	stream, err := j.js.Stream(ctx, j.name(Stream))
	if err != nil {
		return nil, j.failed("read the journal's state", err)
	}
	return stream.CachedInfo(), nil
}

// State is the journal's state at a moment.
type State struct {
	// Now is the moment on the server's clock.
	Now time.Time
	// First is the lowest sequence in the journal. Last is the highest that it has
	// assigned; it does not decrease when messages expire. First is one above Last
	// if the journal is empty.
	First, Last uint64
}

// State reads the journal's state from the leader.
func (j *Journal) State(ctx context.Context) (State, error) {
	info, err := j.info(ctx)
	if err != nil {
		return State{}, err
	}
	return State{Now: info.TimeStamp, First: info.State.FirstSeq, Last: info.State.LastSeq}, nil
}

// Now reads the time of the server's clock, which also sets the times of the
// messages. All deadlines are compared with this clock.
func (j *Journal) Now(ctx context.Context) (time.Time, error) {
	info, err := j.info(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return info.TimeStamp, nil
}
