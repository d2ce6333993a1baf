package journal

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
)

// retryAfter is when a caller should try again while NATS is away.
const retryAfter = 2 * time.Second

// ErrServerTooOld says that the NATS server lacks what the journal needs.
var ErrServerTooOld = errors.New("NATS 2.12 or newer is needed")

// Error codes of JetStream's API that nats.go has no name for.
const (
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeNoMessage             jetstream.ErrorCode = 10037
	codeStorageExceeded       jetstream.ErrorCode = 10047
	codeMessageSize           jetstream.ErrorCode = 10054
	codeStoreFailed           jetstream.ErrorCode = 10077
)

func hasCode(err error, code jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == code
}

// failed turns an error of NATS into one that the caller can act on.
func (j *Journal) failed(doing string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case missing(err):
		return unavailable("NATS_URL", "could not "+doing+": its stream or bucket is not there: run `ray-executor deploy`", err)
	case isFull(err):
		return full(err)
	case errors.Is(err, nats.ErrMaxPayload) || hasCode(err, codeMessageSize):
		return &deliberation.Error{
			Code: deliberation.TooLarge, Field: "request", Cause: err,
			Message: "is larger than NATS takes: shorten it, or ask the operator to raise the server's max_payload or the stream's max_msg_size",
		}
	case unanswered(err):
		return unavailable("NATS_URL", "could not "+doing+": JetStream does not answer; if it stays so, run `ray-executor deploy`", err)
	case j.conn.IsConnected():
		return unavailable("NATS_URL", "could not "+doing+": NATS did not answer in time: it is overloaded, or its disk is full or read-only (its log says so; "+
			"restart it when that is mended); repeating is safe", err)
	default:
		return unavailable("NATS_URL", "could not "+doing+": NATS cannot be reached or did not answer in time; repeating is safe", err)
	}
}

func missing(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamNotFound) || hasCode(err, jetstream.JSErrCodeConsumerNotFound) ||
		errors.Is(err, jetstream.ErrBucketNotFound)
}

// isFull reports whether a limit on what is stored was met. The server has one
// code for whatever its store refuses: the text tells a limit apart.
func isFull(err error) bool {
	if hasCode(err, codeStoreFailed) {
		return strings.Contains(err.Error(), "maximum")
	}
	return hasCode(err, codeInsufficientResources) || hasCode(err, codeStorageExceeded)
}

// unanswered reports whether nobody listens where the stream should: it is not
// there, or has no leader right now.
func unanswered(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

func unavailable(field, message string, cause error) *deliberation.Error {
	return &deliberation.Error{
		Code: deliberation.Unavailable, Field: field, Message: message, RetryAfter: retryAfter, Cause: cause,
	}
}

func full(cause error) *deliberation.Error {
	return fullOf("the journal", "try again later, or ask the operator to raise JOURNAL_MAX_BYTES", cause)
}

func fullOf(what, do string, cause error) *deliberation.Error {
	return &deliberation.Error{
		Code: deliberation.LimitReached, Field: "journal", RetryAfter: 30 * time.Second, Cause: cause,
		Message: what + " is full; " + do,
	}
}

// checkServer is nil while a server that is new enough is connected.
func (j *Journal) checkServer() error {
	if !j.conn.IsConnected() {
		cause := j.conn.LastError()
		if cause == nil {
			cause = nats.ErrNoServers
		}
		return unavailable("NATS_URL", fmt.Sprintf("NATS at %s cannot be reached (%v); is it up?", redacted(j.conn), cause), cause)
	}
	version := j.conn.ConnectedServerVersion()
	if !supported(version) {
		cause := fmt.Errorf("%w; the server is %s", ErrServerTooOld, version)
		return &deliberation.Error{Code: deliberation.Unavailable, Field: "NATS_URL", Message: cause.Error(), Cause: cause}
	}
	return nil
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

// withoutURL takes the URL, which may hold a password, out of an error about
// it.
func withoutURL(err error) error {
	if malformed, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("is not a URL such as nats://host:4222: %w", withoutQuote(malformed.Err))
	}
	return err
}

// withoutQuote drops errors that quote a piece of what they could not read.
func withoutQuote(err error) error {
	return errors.New(strings.SplitN(err.Error(), `"`, 2)[0])
}
