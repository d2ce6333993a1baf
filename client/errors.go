package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Error is a call that failed: what is wrong and what to do. Its Field is the field
// of the request or the dependency at fault; `server` if the answer is not from a
// ray-executor, or there is none.
type Error = deliberation.Error

// Code is the kind of an error.
type Code = deliberation.Code

// The codes. Repeating a call helps only with LimitReached, Unavailable and
// DeadlineExceeded.
const (
	// Invalid: the request is malformed or a field is out of range.
	Invalid = deliberation.Invalid
	// Conflict: the id belongs to another request.
	Conflict = deliberation.Conflict
	// TooLarge: the request is above a limit of the server, or the reply above
	// Options.MaxResponseBytes.
	TooLarge = deliberation.TooLarge
	// NotFound: there is no such deliberation, or no longer.
	NotFound = deliberation.NotFound
	// LimitReached: the service accepts no more at the moment; see RetryAfter.
	LimitReached = deliberation.LimitReached
	// Unavailable: the server, or what it needs, cannot be reached.
	Unavailable = deliberation.Unavailable
	// Internal: an unexpected error of the server, or a reply that cannot be read.
	Internal = deliberation.Internal
	// DeadlineExceeded: the call did not succeed in time.
	DeadlineExceeded Code = "deadline_exceeded"
	// Unauthenticated: the token is missing or not valid.
	Unauthenticated = deliberation.Unauthenticated
	// PermissionDenied: the token does not permit the call.
	PermissionDenied = deliberation.PermissionDenied
	// Unimplemented: the server does not serve the method.
	Unimplemented Code = "unimplemented"
)

// CodeOf returns the code of an error, and Internal for an error that has none.
func CodeOf(err error) Code {
	if coded, ok := errors.AsType[*Error](err); ok {
		return coded.Code
	}
	return Internal
}

const (
	serverField = "server"
	tokenField  = "token"
)

// longestRetryAfter bounds what a server can ask for.
const longestRetryAfter = 24 * time.Hour

// convert returns the error of a try; nil for nil. ctx is the caller's.
func (c *Client) convert(ctx context.Context, id string, err error) *Error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ended(ctx, id)
	}
	if coded, ok := errors.AsType[*Error](err); ok {
		return coded
	}
	remote, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return &Error{Code: Internal, Field: serverField, Message: err.Error(), DeliberationID: id, Cause: err}
	}
	converted := c.answered(remote)
	if !connect.IsWireError(err) {
		converted = c.unanswered(remote)
	}
	converted.Cause = err
	if converted.DeliberationID == "" {
		converted.DeliberationID = id
	}
	return converted
}

// ended is the error of a call whose context ended first.
func ended(ctx context.Context, id string) *Error {
	failed := &Error{Code: Unavailable, Field: "context", DeliberationID: id, Cause: context.Cause(ctx)}
	failed.Message = "the call was cancelled before its reply"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		failed.Code, failed.Message = DeadlineExceeded, "the call did not succeed in time"
	}
	return failed
}

// answered converts an error that the server sent. Its detail has the service's
// code and field.
func (*Client) answered(remote *connect.Error) *Error {
	converted := &Error{Code: Code(remote.Code().String()), Message: remote.Message(), RetryAfter: retryAfter(remote.Meta())}
	for _, detail := range remote.Details() {
		message, err := detail.Value()
		if err != nil {
			continue
		}
		if ours, ok := message.(*pb.Error); ok {
			converted.Code, converted.Field, converted.DeliberationID = Code(ours.GetCode()), ours.GetField(), ours.GetDeliberationId()
			converted.Message = strings.TrimPrefix(ours.GetMessage(), ours.GetField()+": ")
			return converted
		}
	}
	switch remote.Code() {
	case connect.CodeAlreadyExists:
		converted.Code = Conflict
	case connect.CodeCanceled, connect.CodeAborted:
		converted.Code = Unavailable
	case connect.CodeResourceExhausted: // one code for both
		converted.Code = LimitReached
		if converted.RetryAfter == 0 {
			converted.Code = TooLarge
		}
	}
	return converted
}

// unanswered converts an error of the connection, or of an answer that is not from
// a ray-executor.
func (c *Client) unanswered(remote *connect.Error) *Error {
	converted := &Error{
		Code: Internal, Field: serverField, RetryAfter: retryAfter(remote.Meta()),
		Message: fmt.Sprintf("%s gives no answer of a ray-executor: %s", c.server, deliberation.Short(remote.Message())),
	}
	_, network := errors.AsType[net.Error](remote)
	switch code := remote.Code(); {
	case code == connect.CodeUnauthenticated, code == connect.CodePermissionDenied:
		converted.Code = Code(code.String())
		converted.Message = fmt.Sprintf("%s does not allow the call: %s", c.server, deliberation.Short(remote.Message()))
	case code == connect.CodeUnimplemented:
		converted.Code = Unimplemented
	case code == connect.CodeResourceExhausted:
		converted.Code = TooLarge
		converted.Message = fmt.Sprintf("the reply is larger than %d bytes: set Options.MaxResponseBytes", c.options.MaxResponseBytes)
	case network, code == connect.CodeUnavailable, code == connect.CodeDeadlineExceeded, code == connect.CodeCanceled, errors.Is(remote, io.ErrUnexpectedEOF):
		converted.Code = Unavailable
		converted.Message = fmt.Sprintf("%s does not answer: %s", c.server, deliberation.Short(remote.Message()))
	}
	return converted
}

// retryAfter reads a Retry-After: seconds or a date (RFC 9110, 10.2.3). 0: there is
// none, or it is malformed.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil && seconds > 0 { // NaN is not
		return time.Duration(min(seconds, longestRetryAfter.Seconds()) * float64(time.Second))
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(date), 0), longestRetryAfter)
	}
	return 0
}
