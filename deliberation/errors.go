package deliberation

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code is the kind of an error. The table from code to HTTP, CloudEvents and gRPC
// answer is in package functions.
type Code string

// The codes. Repeating a call helps only with LimitReached and Unavailable.
const (
	// Invalid: the request is malformed or a field is out of range.
	Invalid Code = "invalid_argument"
	// Unauthenticated: the caller sent no valid credentials.
	Unauthenticated Code = "unauthenticated"
	// PermissionDenied: the caller's credentials do not allow the call.
	PermissionDenied Code = "permission_denied"
	// Conflict: the id belongs to another request.
	Conflict Code = "conflict"
	// TooLarge: the request is above the size limit.
	TooLarge Code = "too_large"
	// NotFound: there is no such deliberation.
	NotFound Code = "not_found"
	// LimitReached: the service accepts no more at the moment.
	LimitReached Code = "limit_reached"
	// Unavailable: a dependency cannot be reached. The outcome of the call may be
	// unknown: it may have taken effect. Repeating it is safe.
	Unavailable Code = "unavailable"
	// Internal: an unexpected error. Its cause is logged and never sent to a caller,
	// as its text may hold addresses or secrets.
	Internal Code = "internal"
)

// Error is the answer to a failed call: which field or dependency is at fault and
// what to do about it. Field and Message are sent to the caller; Cause is not.
type Error struct {
	Code Code
	// Field is the field or the dependency at fault.
	Field string
	// Message says what is wrong and what to do.
	Message string
	// DeliberationID is set where one is concerned.
	DeliberationID string
	// RetryAfter is the pause before a repeated call may succeed; 0 if it cannot.
	RetryAfter time.Duration
	// Cause is for the log.
	Cause error
}

// Error implements error with what the caller may read.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Invalidf is the error for an invalid field. A long message is cut at its end: pass
// a caller's text through Short, so that the advice after it is not cut.
func Invalidf(field, format string, args ...any) *Error {
	return &Error{
		Code: Invalid, Field: Shorten(field, maxField), Message: Shorten(fmt.Sprintf(format, args...), maxMessage),
	}
}

// NoSuch is the error for an id that the journal does not hold.
func NoSuch(id string) *Error {
	return &Error{
		Code: NotFound, Field: "deliberation_id", DeliberationID: id,
		Message: "no such deliberation: check the id; the journal retains ended ones for some days",
	}
}

// AsError returns the coded error in err's chain. A cancelled or expired context is
// Unavailable, as the call may have taken effect. Any other error becomes Internal,
// with err as its cause and nothing of its text.
func AsError(err error) *Error {
	if coded, ok := errors.AsType[*Error](err); ok {
		return coded
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &Error{
			Code: Unavailable, Field: "request", RetryAfter: time.Second, Cause: err,
			Message: "was given up before it was answered: its outcome is unknown, repeating it is safe",
		}
	}
	return &Error{Code: Internal, Message: "internal", Cause: err}
}
