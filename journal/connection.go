package journal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"rayexecutor/deliberation"
)

// permanent marks the cause of an error that no waiting resolves.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent reports whether no waiting resolves an error: a setting, the server's
// configuration or its streams must change. A command stops on such an error. The
// service continues to try, because the NATS server may be in the middle of its
// setup.
func Permanent(err error) bool {
	_, ok := errors.AsType[permanent](err)
	return ok
}

// permanently is unavailable for a permanent error.
func permanently(field, message string, cause error) *deliberation.Error {
	if cause == nil {
		cause = errors.New(message)
	}
	return unavailable(field, message, permanent{cause})
}

// cure is the advice for a kind of error.
type cure struct {
	is func(error) bool
	// field is the setting to check, text says what is wrong and what to do.
	field, text string
	permanent   bool
}

func (c cure) error(subject string, cause error) *deliberation.Error {
	message := fmt.Sprintf("%s %s (%v)", subject, c.text, cause)
	if c.permanent {
		return permanently(c.field, message, cause)
	}
	return unavailable(c.field, message, cause)
}

// cureFor returns the first matching cure; the last one of a table matches all.
func cureFor(cures []cure, err error) cure {
	for _, cure := range cures[:len(cures)-1] {
		if cure.is(err) {
			return cure
		}
	}
	return cures[len(cures)-1]
}

// noConnection has the cures for errors of connecting. The more specific ones
// come first.
var noConnection = []cure{
	{oneOf(nats.ErrAuthorization, nats.ErrAuthRevoked), "NATS_URL", "refuses the login: check NATS_CREDS, NATS_USER and NATS_PASSWORD, NATS_TOKEN, or the user and password in NATS_URL", true},
	{oneOf(nats.ErrAuthExpired, nats.ErrAccountAuthExpired), "NATS_CREDS", "refuses the login, which has expired: get new credentials", true},
	{oneOf(fs.ErrNotExist, fs.ErrPermission), "NATS_CREDS", "is not tried, because a file cannot be read", true},
	{says("nkey", "key pair"), "NATS_CREDS", "is not tried, because the file does not hold credentials: create it again, as `nsc generate creds` writes it", true},
	{isType[x509.UnknownAuthorityError], "NATS_CA", "shows a certificate of an unknown authority: name the authority's file", true},
	{isType[x509.HostnameError], "NATS_URL", "shows a certificate for other names: use one of them", true},
	{isType[x509.CertificateInvalidError], "NATS_CA", "shows a certificate that is not valid: renew it, or name its authority's file", true},
	{says("certificate required", "bad certificate"), "NATS_URL", "asks for a client's certificate: set NATS_CERT and NATS_KEY", true},
	{oneOf(nats.ErrSecureConnWanted), "NATS_URL", "has no TLS: write nats:// in place of tls://, and leave NATS_CA empty", true},
	{isType[tls.RecordHeaderError], "NATS_URL", "does not answer with TLS: check the port, and whether it wants tls:// or nats://", true},
	{isType[*net.DNSError], "NATS_URL", "cannot be looked up: check the host name, and this machine's DNS", false},
	{oneOf(nats.ErrNoServers, syscall.ECONNREFUSED), "NATS_URL", "cannot be reached: is it up? Nobody listens there", false},
	{oneOf(nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded), "NATS_URL", "has too many connections: raise its limit, or close some", false},
	{says("INFO not received", "expected 'PONG'", "unknown protocol"), "NATS_URL", "does not speak NATS: check the port", false},
	{timedOut, "NATS_URL", "does not answer: check the address and the firewalls in between", false},
	{nil, "NATS_URL", "cannot be reached", false},
}

// oneOf matches errors by errors.Is.
func oneOf(known ...error) func(error) bool {
	return func(err error) bool {
		for _, one := range known {
			if errors.Is(err, one) {
				return true
			}
		}
		return false
	}
}

// isType matches errors by their type.
func isType[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// says matches errors that have only a text.
func says(texts ...string) func(error) bool {
	return func(err error) bool {
		for _, text := range texts {
			if strings.Contains(err.Error(), text) {
				return true
			}
		}
		return false
	}
}

// timedOut matches all kinds of timeouts of a connection.
func timedOut(err error) bool {
	late, ok := errors.AsType[net.Error](err)
	return ok && late.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
}

// connectionErrors records the errors that the client reports apart from the calls
// that they concern.
type connectionErrors struct {
	mu sync.Mutex
	// attempt is why the last attempt to connect failed.
	attempt error
	// denied is the last permission error.
	denied   error
	deniedAt time.Time
	// waiting are the contexts to cancel at the next permission error.
	waiting map[*context.CancelCauseFunc]struct{}
	// logged is the last logged reason for a missing connection.
	logged string
}

// failedToConnect is nats.go's callback for a failed attempt to connect.
func (t *connectionErrors) failedToConnect(_ *nats.Conn, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempt = err
}

// reported is nats.go's callback for an error that answers no call.
func (t *connectionErrors) reported(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.denied, t.deniedAt = err, time.Now()
	for cancel := range t.waiting {
		(*cancel)(err)
	}
}

// denial returns the last permission error if it is not older than a call can be.
func (t *connectionErrors) denial(within time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.deniedAt) > within {
		return nil
	}
	return t.denied
}

// whilePermitted returns a context that ends at the next permission error, which is
// its cause. Without it the call would wait for its timeout: the server does not
// answer a request that is not permitted.
func (j *Journal) whilePermitted(ctx context.Context) (allowed context.Context, stop func()) {
	allowed, cancel := context.WithCancelCause(ctx)
	t := j.connectionErrors
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting[&cancel] = struct{}{}
	return allowed, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.waiting, &cancel)
		cancel(nil)
	}
}

// log logs why there is no connection, once for each reason.
func (t *connectionErrors) log(log *slog.Logger, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reason != t.logged {
		t.logged = reason
		log.Warn("NATS cannot be used; trying again", "reason", reason)
	}
}

// connected clears the reasons, so that the next loss of connection is logged.
func (t *connectionErrors) connected() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempt, t.logged = nil, ""
}

// connectionError says why there is no connection, as far as that is known.
func (j *Journal) connectionError() *deliberation.Error {
	// Without an error of its own the client has failed to connect: its callback for
	// failed attempts has recorded the cause.
	cause := j.conn.LastError()
	if cause == nil {
		j.connectionErrors.mu.Lock()
		cause = j.connectionErrors.attempt
		j.connectionErrors.mu.Unlock()
	}
	if cause == nil {
		cause = nats.ErrNoServers
	}
	return cureFor(noConnection, cause).error("NATS at "+redacted(j.conn), cause)
}

const (
	// reachWait is how long a command tries to connect.
	reachWait = 10 * time.Second
	reachPoll = 50 * time.Millisecond
)

// Reach waits for a connection to a server of a supported version. It is for
// commands: it waits for ten seconds at most and logs why, and it returns a
// permanent error at once.
func (j *Journal) Reach(ctx context.Context) error {
	ticker := time.NewTicker(reachPoll)
	defer ticker.Stop()
	patience := time.After(reachWait)
	for {
		err := j.checkServer()
		if err == nil || Permanent(err) {
			return err
		}
		j.connectionErrors.log(j.log, err.Error())
		select {
		case <-ctx.Done():
			return err
		case <-patience:
			return err
		case <-ticker.C:
		}
	}
}
