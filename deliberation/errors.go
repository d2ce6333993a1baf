package deliberation

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code says what kind of error a caller is told of. The table from code to
// HTTP, CloudEvents and gRPC answer is in package functions.
type Code string

// The codes. Repeating a call helps only with LimitReached and Unavailable.
const (
	// Invalid: the request is malformed or a field is out of range.
	Invalid Code = "invalid_argument"
	// Conflict: the id stands for another request.
	Conflict Code = "conflict"
	// TooLarge: the request is above the size limit.
	TooLarge Code = "too_large"
	// NotFound: there is no such deliberation.
	NotFound Code = "not_found"
	// LimitReached: the service takes no more right now.
	LimitReached Code = "limit_reached"
	// Unavailable: a dependency cannot be reached. The outcome of what was
	// asked may be unknown; repeating it is safe.
	Unavailable Code = "unavailable"
	// Internal: something that was not foreseen. Its cause is logged, never
	// told.
	Internal Code = "internal"
)

// Error is what a caller is told when a call fails: which field or dependency
// is at fault and what to do about it.
type Error struct {
	Code Code
	// Field is the field or the dependency at fault.
	Field string
	// Message says what is wrong and what to do.
	Message string
	// DeliberationID is set where one is concerned.
	DeliberationID string
	// RetryAfter is when repeating makes sense; 0 where it does not.
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

// Invalidf reports a field that is not as it must be. What is too long to be
// read is cut: use Short for a caller's words, so that the advice stays.
func Invalidf(field, format string, args ...any) *Error {
	return &Error{
		Code: Invalid, Field: Shorten(field, maxField), Message: Shorten(fmt.Sprintf(format, args...), maxMessage),
	}
}

// NoSuch reports an id that the journal does not hold.
func NoSuch(id string) *Error {
	return &Error{
		Code: NotFound, Field: "deliberation_id", DeliberationID: id,
		Message: "no such deliberation: check the id; the journal keeps ended ones for some days",
	}
}

// AsError returns the coded error in err's chain. A call that was given up, by
// its caller, its deadline or a server that stops, is Unavailable. What was not foreseen
// comes back as Internal, with err as its cause and nothing of its text.
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
