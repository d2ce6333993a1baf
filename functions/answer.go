package functions

import (
	"net/http"

	"rayexecutor/deliberation"
)

// answer is how a code is told to callers.
type answer struct {
	status int
	title  string
}

// answers is the one table from a coded error to what callers are told.
// Knative retries 404, 408, 409, 429 and 5xx: a refusal that will stand is
// never one of those. (404 is for REST alone, where nobody retries it.)
var answers = map[deliberation.Code]answer{
	deliberation.Invalid:      {http.StatusBadRequest, "Bad request"},
	deliberation.Conflict:     {http.StatusUnprocessableEntity, "The id stands for another request"},
	deliberation.TooLarge:     {http.StatusRequestEntityTooLarge, "Too large"},
	deliberation.NotFound:     {http.StatusNotFound, "Not found"},
	deliberation.LimitReached: {http.StatusTooManyRequests, "Limit reached"},
	deliberation.Unavailable:  {http.StatusServiceUnavailable, "Unavailable"},
	deliberation.Internal:     {http.StatusInternalServerError, "Internal error"},
}

// retryable reports whether repeating a call that failed with a code helps.
func retryable(code deliberation.Code) bool {
	return code == deliberation.LimitReached || code == deliberation.Unavailable
}
