package functions

import (
	"math"
	"net/http"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// answer is how a code is told to callers.
type answer struct {
	status int
	title  string
	rpc    connect.Code
}

// answers is the one table from a coded error to what callers are told.
// Knative retries 404, 408, 409, 429 and 5xx: a refusal that will stand is
// never one of those. (404 is for REST alone, where nobody retries it.)
//
// An id that stands for another request is ALREADY_EXISTS, as for any id that a
// caller chose (AIP-133). RESOURCE_EXHAUSTED is either a limit that was reached,
// then with Retry-After, or a request that is too large, which no retry mends.
var answers = map[deliberation.Code]answer{
	deliberation.Invalid:      {http.StatusBadRequest, "Bad request", connect.CodeInvalidArgument},
	deliberation.Conflict:     {http.StatusUnprocessableEntity, "The id stands for another request", connect.CodeAlreadyExists},
	deliberation.TooLarge:     {http.StatusRequestEntityTooLarge, "Too large", connect.CodeResourceExhausted},
	deliberation.NotFound:     {http.StatusNotFound, "Not found", connect.CodeNotFound},
	deliberation.LimitReached: {http.StatusTooManyRequests, "Limit reached", connect.CodeResourceExhausted},
	deliberation.Unavailable:  {http.StatusServiceUnavailable, "Unavailable", connect.CodeUnavailable},
	deliberation.Internal:     {http.StatusInternalServerError, "Internal error", connect.CodeInternal},
}

// retryable reports whether repeating a call that failed with a code helps.
func retryable(code deliberation.Code) bool {
	return code == deliberation.LimitReached || code == deliberation.Unavailable
}

// retryAfter is the Retry-After header of a retryable error.
func retryAfter(coded *deliberation.Error) string {
	return strconv.Itoa(int(max(1, math.Ceil(coded.RetryAfter.Seconds()))))
}

// asMessage is an error as the payload that tells it.
func asMessage(coded *deliberation.Error) *pb.Error {
	return &pb.Error{
		Code: string(coded.Code), Message: coded.Error(), Field: coded.Field, DeliberationId: coded.DeliberationID,
	}
}

// found is NotFound for a reply that says so in its status, for doors where an
// unknown id is an error.
func found(reply proto.Message) error {
	told, ok := reply.(interface {
		GetStatus() string
		GetDeliberationId() string
	})
	if ok && told.GetStatus() == string(deliberation.Unknown) {
		return deliberation.NoSuch(told.GetDeliberationId())
	}
	return nil
}
