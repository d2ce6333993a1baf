package journal

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
)

// retryAfter is the pause that callers are advised while NATS cannot be reached.
const retryAfter = 2 * time.Second

// ErrServerTooOld is the error for a NATS server without the features that the
// journal needs.
var ErrServerTooOld = errors.New("NATS 2.12 or newer is needed")

// Error codes of JetStream's API for which nats.go has no name.
const (
	codeAccountExceeded       jetstream.ErrorCode = 10002
	codeNoPeers               jetstream.ErrorCode = 10005
	codeNotAvailable          jetstream.ErrorCode = 10008
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeMaxConsumers          jetstream.ErrorCode = 10026
	codeMaxStreams            jetstream.ErrorCode = 10027
	codeNoMessage             jetstream.ErrorCode = 10037
	codeStorageExceeded       jetstream.ErrorCode = 10047
	codeStreamCreate          jetstream.ErrorCode = 10049
	codeInvalidConfig         jetstream.ErrorCode = 10052
	codeMessageSize           jetstream.ErrorCode = 10054
	codeOverlap               jetstream.ErrorCode = 10065
	codeStreamUpdate          jetstream.ErrorCode = 10069
	codeNoReplicas            jetstream.ErrorCode = 10074
	codeStoreFailed           jetstream.ErrorCode = 10077
	codeBytesRequired         jetstream.ErrorCode = 10113
	codeStreamBytesExceeded   jetstream.ErrorCode = 10122
)

// hasCode reports whether the server answered with one of the codes. A code is
// stable over versions of the server, unlike its text.
func hasCode(err error, codes ...jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && slices.Contains(codes, api.ErrorCode)
}

// failed converts an error of NATS into a coded one that says what to do.
//
// Unavailable means that the outcome may be unknown: the server may have stored
// the message before the connection was lost. All calls of this package are safe to
// repeat for that reason. A cancelled context is returned as it is.
func (j *Journal) failed(doing string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	case missing(err):
		return unavailable("NATS_URL", "could not "+doing+": its stream or bucket does not exist: run `ray-executor deploy`", err)
	case isFull(err):
		return full(err)
	case errors.Is(err, nats.ErrMaxPayload) || hasCode(err, codeMessageSize):
		return &deliberation.Error{
			Code: deliberation.TooLarge, Field: "request", Cause: err,
			Message: "is larger than NATS takes: shorten it, or ask the operator to raise the server's max_payload or the stream's max_msg_size",
		}
	// The connection is checked after the server's own answers: those are known, and
	// the connection may have been lost since.
	case !j.conn.IsConnected():
		return j.unreached(doing, err)
	default:
		return j.unserved(doing, err)
	}
}

// unreached is failed without a connection. The log has the addresses and the
// certificates; the caller's message has none of them.
func (j *Journal) unreached(doing string, err error) error {
	why := j.connectionError()
	j.connectionErrors.log(j.log, why.Error())
	return unavailable("NATS_URL", "could not "+doing+": NATS cannot be reached or did not answer in time; repeating is safe", errors.Join(why, err))
}

// unserved is failed for a server that is connected and does not answer as it
// should. Missing permissions and a missing JetStream are permanent: the
// server's configuration must change.
func (j *Journal) unserved(doing string, err error) error {
	if denial := j.denial(err); denial != nil {
		return permanently("NATS_URL", fmt.Sprintf("could not %s: NATS does not allow it to this user (%v): allow the subject", doing, denial), denial)
	}
	enabled, _ := j.conn.ConnectedServerJetStream()
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return permanently("NATS_URL", "could not "+doing+": the account has no JetStream: enable it for the account, or use one that has it", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), unanswered(err) && !enabled:
		return permanently("NATS_URL", "could not "+doing+": NATS has no JetStream: start it with `jetstream {}` in its configuration, or with -js", err)
	case unanswered(err):
		return unavailable("NATS_URL", "could not "+doing+": JetStream does not answer; if it stays so, run `ray-executor deploy`", err)
	default:
		return unavailable("NATS_URL", "could not "+doing+": NATS did not answer in time: it is overloaded, or its disk is full or read-only (its log says so; "+
			"restart it when that is repaired); repeating is safe", err)
	}
}

// denial returns the permission error of a call; nil if there is none. The server
// reports it apart from the call, which ends by its timeout.
func (j *Journal) denial(err error) error {
	if errors.Is(err, nats.ErrPermissionViolation) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return j.connectionErrors.denial(deployWait + j.wait)
	}
	return nil
}

// missing reports whether a stream, a consumer or a bucket does not exist.
func missing(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamNotFound) || hasCode(err, jetstream.JSErrCodeConsumerNotFound) ||
		errors.Is(err, jetstream.ErrBucketNotFound)
}

// isFull reports whether a limit of the store was reached. The server has one code
// for all failures of its store, so the text distinguishes a limit.
func isFull(err error) bool {
	if hasCode(err, codeStoreFailed) {
		return strings.Contains(err.Error(), "maximum")
	}
	return hasCode(err, codeInsufficientResources) || hasCode(err, codeStorageExceeded)
}

// unanswered reports whether nobody answers for the stream: it does not exist, or
// it has no leader at this moment.
func unanswered(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

// unavailable is an error that a repeated call may not meet again.
func unavailable(field, message string, cause error) *deliberation.Error {
	return &deliberation.Error{
		Code: deliberation.Unavailable, Field: field, Message: message, RetryAfter: retryAfter, Cause: cause,
	}
}

// full is LimitReached for the journal itself.
func full(cause error) *deliberation.Error {
	return fullOf("the journal", "try again later, or ask the operator to raise JOURNAL_MAX_BYTES", cause)
}

// fullOf is LimitReached for what is full, with the advice what to do.
func fullOf(what, do string, cause error) *deliberation.Error {
	return &deliberation.Error{
		Code: deliberation.LimitReached, Field: "journal", RetryAfter: 30 * time.Second, Cause: cause,
		Message: what + " is full; " + do,
	}
}

// checkServer is nil while a server of a supported version is connected.
func (j *Journal) checkServer() error {
	if !j.conn.IsConnected() {
		return j.connectionError()
	}
	version := j.conn.ConnectedServerVersion()
	if !supported(version) {
		cause := fmt.Errorf("%w; the server is %s", ErrServerTooOld, version)
		return permanently("NATS_URL", cause.Error(), cause)
	}
	return nil
}

// supported reports whether a version is 2.12 or newer.
func supported(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (major > 2 || major == 2 && minor >= 12)
}

// redacted lists the servers of a connection without users and passwords.
func redacted(conn *nats.Conn) string {
	urls := conn.Servers()
	for i, raw := range urls {
		if at := strings.LastIndex(raw, "@"); at >= 0 {
			urls[i] = raw[:strings.Index(raw, "//")+2] + raw[at+1:]
		}
	}
	return strings.Join(urls, ",")
}

// withoutURL removes the URL, which may hold a password, from an error about it.
func withoutURL(err error) error {
	if malformed, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("is not a URL such as nats://host:4222: %w", withoutQuote(malformed.Err))
	}
	return err
}

// withoutQuote cuts an error before the first quote: it may repeat a password.
func withoutQuote(err error) error {
	return errors.New(strings.SplitN(err.Error(), `"`, 2)[0])
}
