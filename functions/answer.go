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

// answer is what a code becomes over HTTP and gRPC.
type answer struct {
	status int
	title  string
	rpc    connect.Code
}

// answers is the one table from a code to what a caller receives at each door.
//
// Knative's broker retries 404, 408, 409, 429 and 5xx, so a permanent refusal has
// none of them: it would be repeated until the broker's last try instead of going
// to the dead-letter sink. That is why a conflict is 422 and not 409. 404 is for
// REST only, which no broker calls.
//
// A conflict is ALREADY_EXISTS over gRPC, as for any id that a caller chose
// (AIP-133). RESOURCE_EXHAUSTED means two things that a client can distinguish: a
// limit, with Retry-After and RetryInfo, or a request that is too large, without.
var answers = map[deliberation.Code]answer{
	deliberation.Invalid:          {http.StatusBadRequest, "Bad request", connect.CodeInvalidArgument},
	deliberation.Unauthenticated:  {http.StatusUnauthorized, "Unauthenticated", connect.CodeUnauthenticated},
	deliberation.PermissionDenied: {http.StatusForbidden, "Permission denied", connect.CodePermissionDenied},
	deliberation.Conflict:         {http.StatusUnprocessableEntity, "The id is in use for another request", connect.CodeAlreadyExists},
	deliberation.TooLarge:         {http.StatusRequestEntityTooLarge, "Too large", connect.CodeResourceExhausted},
	deliberation.NotFound:         {http.StatusNotFound, "Not found", connect.CodeNotFound},
	deliberation.LimitReached:     {http.StatusTooManyRequests, "Limit reached", connect.CodeResourceExhausted},
	deliberation.Unavailable:      {http.StatusServiceUnavailable, "Unavailable", connect.CodeUnavailable},
	deliberation.Internal:         {http.StatusInternalServerError, "Internal error", connect.CodeInternal},
}

// retryable reports whether the same call may succeed later. All operations are
// safe to repeat, so this is about success alone.
func retryable(code deliberation.Code) bool {
	return code == deliberation.LimitReached || code == deliberation.Unavailable
}

// retryAfter returns the Retry-After header of a retryable error, in whole
// seconds. It rounds up and is at least 1: clients read 0 as "at once".
func retryAfter(coded *deliberation.Error) string {
	return strconv.Itoa(int(max(1, math.Ceil(coded.RetryAfter.Seconds()))))
}

// challenge sets the header that goes with an answer to a call without valid
// credentials (RFC 6750). It is a header for RPCs too: net/http sends no such
// trailer.
func challenge(w http.ResponseWriter, err error) {
	if deliberation.AsError(err).Code == deliberation.Unauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
}

// asMessage returns an error as a payload, without its cause.
func asMessage(coded *deliberation.Error) *pb.Error {
	return &pb.Error{
		Code: string(coded.Code), Message: coded.Error(), Field: coded.Field, DeliberationId: coded.DeliberationID,
	}
}

// found returns NotFound if a reply has the status not_found. Operations answer an
// unknown id with that status, because a broker would retry an error. REST, and
// gRPC for its newer calls, answer it as an error.
func found(reply proto.Message) error {
	status, ok := reply.(interface {
		GetStatus() string
		GetDeliberationId() string
	})
	if ok && status.GetStatus() == string(deliberation.Unknown) {
		return deliberation.NoSuch(status.GetDeliberationId())
	}
	return nil
}
