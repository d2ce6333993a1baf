package deliberation

// ErrorType is why an agent failed: the metadata `error_type` of its result.
// Callers rely on the set of them, which is in tests/vectors/error_types.json. Most
// are the worker's; its endpoint.py has all.
type ErrorType string

// The error types that Go writes.
const (
	// TimedOut is an agent without a result at the deadline.
	TimedOut ErrorType = "timeout"
	// Damaged is an agent of which the record cannot be read.
	Damaged ErrorType = "internal"
)
