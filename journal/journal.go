// Package journal is the JetStream side: the stream DELIBERATIONS, which holds
// every event of every deliberation and is the only state there is.
//
// The server's compare-and-set decides what may stand: a request, one start an
// attempt, one result an agent, one end. Decisions are read from the stream's
// leader; what is merely told may come from any replica.
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
	// Announcements is the stream of what the Orchestrator hears.
	Announcements = "ORCHESTRATION_EVENTS"
	// Results is the object store for what no message can hold.
	Results = "DELIBERATION_RESULTS"
	// Statistics is the key-value bucket of the statistics' snapshot.
	Statistics = "DELIBERATION_STATS"
)

// Settings says how to reach NATS.
type Settings struct {
	URL string
	// Creds is a file with a user's credentials, CA one with the server's
	// certificate authority; both may be empty.
	Creds string
	CA    string
	// Login is how to log in where neither URL nor Creds say it.
	Login Login
	// Prefix stands before the name of every stream and bucket; it may be empty.
	// Subjects have none.
	Prefix string
	// Name is this client's, as the server lists it.
	Name string
	// Wait bounds each request to the server. 0: 5 s.
	Wait time.Duration
	Log  *slog.Logger
}

// Journal is a connection to the journal. It is safe for concurrent use.
type Journal struct {
	conn             *nats.Conn
	js               jetstream.JetStream
	prefix           string
	wait             time.Duration
	log              *slog.Logger
	connectionErrors *connectionErrors
	capacity         capacity
	beats            heartbeats
	refreshes        singleflight.Group // at the room and at the workers, one at a time
	reached          atomic.Bool

	complaints Throttle // of ends that could not be told
	unreadable *unreadable
	terminated *prometheus.CounterVec // ends that a reader can never tell
}

// Connect starts to connect and returns at once: a NATS that is away is tried
// again for as long as it takes, and until it is there every call answers
// Unavailable. Nothing is buffered while the connection is down, so that
// nothing is sent after its caller was told that it failed. A file that cannot
// be read is an error, which names its setting.
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
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(settings.Wait))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return &Journal{
		conn: conn, js: js, prefix: settings.Prefix, wait: settings.Wait, log: settings.Log, connectionErrors: connectionErrors, unreadable: newUnreadable(),
		terminated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ray_executor_ends_set_aside_total", Help: "Ends that could never be told, by reader; the log names each.",
		}, []string{"reader"}),
	}, nil
}

// name is what a stream or bucket of ours is called on the server.
func (j *Journal) name(of string) string { return j.prefix + of }

// readable makes sure that the files are there.
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

func options(settings Settings, connectionErrors *connectionErrors) []nats.Option {
	options := []nats.Option{
		nats.Name(settings.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1),
		// A refused password may be a server that is still being set up: giving
		// up would leave this process without a journal for good.
		nats.IgnoreAuthErrorAbort(),
		// A connection that is dead without a word is noticed within a minute.
		nats.PingInterval(20 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				settings.Log.Warn("NATS went away; trying again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			connectionErrors.connected()
			settings.Log.Info("NATS is back", "server", conn.ConnectedUrlRedacted())
		}),
		nats.ReconnectErrHandler(connectionErrors.failedToConnect),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			connectionErrors.reported(err)
			settings.Log.Warn("NATS reports", "error", err)
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

// Close sends what is under way and closes the connection.
func (j *Journal) Close() {
	if err := j.conn.FlushTimeout(time.Second); err != nil {
		j.log.Debug("flush at close", "error", err)
	}
	j.conn.Close()
}

// Ready reports whether the journal has been reached once. Until then it tries
// at each call; afterwards a NATS that goes away is told by each operation's
// own error. An old server or a missing stream is an error that says what to
// do.
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

// info reads the stream's state from its leader.
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
	// Now is the moment, on the server's clock.
	Now time.Time
	// First is the lowest sequence that the journal holds, one above Last where
	// it is empty; Last is the highest that it gave.
	First, Last uint64
}

// State asks the leader for the journal's state.
func (j *Journal) State(ctx context.Context) (State, error) {
	info, err := j.info(ctx)
	if err != nil {
		return State{}, err
	}
	return State{Now: info.TimeStamp, First: info.State.FirstSeq, Last: info.State.LastSeq}, nil
}

// Now asks for the time on the server's clock, the one that the journal's
// timestamps come from and that deadlines count by.
func (j *Journal) Now(ctx context.Context) (time.Time, error) {
	info, err := j.info(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return info.TimeStamp, nil
}
