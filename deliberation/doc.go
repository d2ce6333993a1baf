// Package deliberation holds the rules: what a request must be, which ids and
// states there are, how events fold into a state and into statistics, and the
// one kind of error that callers are told.
//
// It is the core that everything else points to. It imports no NATS, Ray or
// HTTP; the linter sees to it.
package deliberation
