// Package deliberation is the core: the rules for requests, the ids and states, and
// the one kind of error that callers get.
//
// Two folds turn events into state. [Fold] turns the events of one deliberation
// into its [History]. [Ledger] folds the whole journal into the statistics and the
// open deliberations. Both are pure: the same entries in the same order give the
// same result in every process, so nothing else must be stored or agreed on.
//
// All other packages depend on this one. It imports no NATS, Ray or HTTP; the
// linter enforces it.
package deliberation
