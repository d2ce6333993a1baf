// Package journal is the JetStream side: the stream DELIBERATIONS, which holds
// every event of every deliberation and is the only state there is.
//
// The server's compare-and-set decides what may stand: a request, one start an
// attempt, one result an agent, one end. Decisions are read from the stream's
// leader; what is merely told may come from any replica.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
)

// Names on the server.
const (
	// Stream is the journal.
	Stream = "DELIBERATIONS"
	// Announcements is the stream of what the Orchestrator hears.
	Announcements = "ORCHESTRATION_EVENTS"
	// Results is the object store for what no message can hold.
	Results = "DELIBERATION_RESULTS"
	// Statistics is the key-value bucket of the statistics' snapshot.
	Statistics = "DELIBERATION_STATS"
	// announcer is the keeper's durable consumer of the ends.
	announcer = "keeper-announce"
)

// retryAfter is when a caller should try again while NATS is away.
const retryAfter = 2 * time.Second

// Settings says how to reach NATS.
type Settings struct {
	URL string
	// Creds is a file with a user's credentials, CA one with the server's
	// certificate authority; both may be empty.
	Creds string
	CA    string
	// Name is this client's, as the server lists it.
	Name string
	// Wait bounds each request to the server. 0: 5 s.
	Wait time.Duration
	Log  *slog.Logger
}

// Journal is a connection to the journal. It is safe for concurrent use.
type Journal struct {
	conn    *nats.Conn
	js      jetstream.JetStream
	wait    time.Duration
	log     *slog.Logger
	room    watermark
	reached atomic.Bool
}

// Connect starts to connect and returns at once: a NATS that is away is tried
// again for as long as it takes, and until it is there every call answers
// Unavailable. Nothing is buffered while the connection is down, so that
// nothing is sent after its caller was told that it failed.
func Connect(settings Settings) (*Journal, error) {
	if settings.Wait == 0 {
		settings.Wait = 5 * time.Second
	}
	options := []nats.Option{
		nats.Name(settings.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				settings.Log.Warn("NATS went away; trying again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(conn *nats.Conn) {
			settings.Log.Info("NATS is back", "server", conn.ConnectedUrlRedacted())
		}),
	}
	if settings.Creds != "" {
		options = append(options, nats.UserCredentials(settings.Creds))
	}
	if settings.CA != "" {
		options = append(options, nats.RootCAs(settings.CA))
	}
	conn, err := nats.Connect(settings.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("NATS_URL: %w", err)
	}
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(settings.Wait))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return &Journal{conn: conn, js: js, wait: settings.Wait, log: settings.Log}, nil
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

// ErrServerTooOld says that the NATS server lacks what the journal needs.
var ErrServerTooOld = errors.New("NATS 2.12 or newer is needed")

func (j *Journal) checkServer() error {
	if !j.conn.IsConnected() {
		return unavailable("NATS_URL", fmt.Sprintf("NATS at %s cannot be reached; is it up?", redacted(j.conn)), nats.ErrConnectionClosed)
	}
	version := j.conn.ConnectedServerVersion()
	if !supported(version) {
		cause := fmt.Errorf("%w; the server is %s", ErrServerTooOld, version)
		return &deliberation.Error{Code: deliberation.Unavailable, Field: "NATS_URL", Message: cause.Error(), Cause: cause}
	}
	return nil
}

// redacted names the servers without passwords.
func redacted(conn *nats.Conn) string {
	urls := conn.Servers()
	for i, raw := range urls {
		if at := strings.LastIndex(raw, "@"); at >= 0 {
			urls[i] = raw[:strings.Index(raw, "//")+2] + raw[at+1:]
		}
	}
	return strings.Join(urls, ",")
}

func supported(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (major > 2 || major == 2 && minor >= 12)
}

// info reads the stream's state from its leader.
func (j *Journal) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	stream, err := j.js.Stream(ctx, Stream)
	if err != nil {
		return nil, j.failed("read the journal's state", err)
	}
	return stream.CachedInfo(), nil
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

// failed turns an error of NATS into one that the caller can act on.
func (j *Journal) failed(doing string, err error) error {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamNotFound:
			return unavailable("NATS_URL", "the stream "+Stream+" is not there: run `ray-executor deploy`", err)
		case codeStoreFailed, codeInsufficientResources, codeMessageSize:
			return full(err)
		}
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return unavailable("NATS_URL", "could not "+doing+": NATS cannot be reached or did not answer in time; repeating is safe", err)
}

// Error codes of JetStream's API that nats.go has no name for.
const (
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeStoreFailed           jetstream.ErrorCode = 10077
	codeMessageSize           jetstream.ErrorCode = 10054
)

func unavailable(field, message string, cause error) *deliberation.Error {
	return &deliberation.Error{
		Code: deliberation.Unavailable, Field: field, Message: message, RetryAfter: retryAfter, Cause: cause,
	}
}

func full(cause error) *deliberation.Error {
	return &deliberation.Error{
		Code: deliberation.LimitReached, Field: "journal", RetryAfter: 30 * time.Second, Cause: cause,
		Message: "the journal is full; try again later, or ask the operator to raise JOURNAL_MAX_BYTES",
	}
}
