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

// permanent marks the cause of an error that no waiting mends.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent reports whether waiting does not mend an error: a setting, the
// server's configuration or what is stored there has to change. A server goes on
// all the same: it may be NATS that is being set up.
func Permanent(err error) bool {
	_, ok := errors.AsType[permanent](err)
	return ok
}

func permanently(field, message string, cause error) *deliberation.Error {
	if cause == nil {
		cause = errors.New(message)
	}
	return unavailable(field, message, permanent{cause})
}

// cure is what to do about a kind of error.
type cure struct {
	is func(error) bool
	// field is the setting to look at, text what is wrong and what to do.
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

// cureFor returns the first cure for an error; the last of a table is for all.
func cureFor(cures []cure, err error) cure {
	for _, cure := range cures[:len(cures)-1] {
		if cure.is(err) {
			return cure
		}
	}
	return cures[len(cures)-1]
}

// noConnection has the cures for servers that no connection comes about with.
var noConnection = []cure{
	{oneOf(nats.ErrAuthorization, nats.ErrAuthRevoked), "NATS_URL", "refuses the login: check NATS_CREDS, NATS_USER and NATS_PASSWORD, NATS_TOKEN, or the user and password in NATS_URL", true},
	{oneOf(nats.ErrAuthExpired, nats.ErrAccountAuthExpired), "NATS_CREDS", "refuses the login, which has expired: get new credentials", true},
	{oneOf(fs.ErrNotExist, fs.ErrPermission), "NATS_CREDS", "is not asked, as a file cannot be read", true},
	{says("nkey", "key pair"), "NATS_CREDS", "is not asked, as the file does not hold credentials: get it anew, as `nsc generate creds` writes it", true},
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

func isType[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// says knows errors that have only a text.
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

func timedOut(err error) bool {
	late, ok := errors.AsType[net.Error](err)
	return ok && late.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, nats.ErrTimeout)
}

// connectionErrors remembers what the client hears of besides the answers to its calls.
type connectionErrors struct {
	mu sync.Mutex
	// attempt is why the last attempt to connect failed.
	attempt error
	// denied is the last word of the server that something is not allowed.
	denied   error
	deniedAt time.Time
	// waiting are those to be told of the next such word.
	waiting map[*context.CancelCauseFunc]struct{}
	// logged is why there is no connection, as the log has it.
	logged string
}

// failedToConnect is nats.go's callback.
func (t *connectionErrors) failedToConnect(_ *nats.Conn, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempt = err
}

// reported is called with what the server says that answers no call.
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

// denial returns the server's word that something is not allowed, if it came
// within the time that a call takes.
func (t *connectionErrors) denial(within time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.deniedAt) > within {
		return nil
	}
	return t.denied
}

// whilePermitted returns a context that ends, with the server's word as its cause,
// when the server says that something is not allowed: the call itself would wait
// for its answer in vain.
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

// log writes why there is no connection, once a reason.
func (t *connectionErrors) log(log *slog.Logger, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if reason != t.logged {
		t.logged = reason
		log.Warn("NATS cannot be used; trying again", "reason", reason)
	}
}

// connected forgets them: the same trouble is news when it comes again.
func (t *connectionErrors) connected() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempt, t.logged = nil, ""
}

// away says why there is no connection, as far as that is known.
func (j *Journal) away() *deliberation.Error {
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
	// reachWait is how long a command that somebody waits for tries to connect.
	reachWait = 10 * time.Second
	reachPoll = 50 * time.Millisecond
)

// Reach waits until there is a connection to a server that is new enough, for
// commands that somebody waits for: ten seconds at most, while the log says why,
// and not at all for what no waiting mends.
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
