// Package faults breaks the system while it works, and then looks whether it
// has kept its word.
//
// Everything is a real process: two function servers, two keepers, three
// nats-servers, a Ray of a head and two worker nodes; between them and NATS,
// and between the workers and the stand-in model, is toxiproxy. A Plan, which a
// seed decides, says what callers ask for and what breaks when: see plan.go.
// After it everything is healed, what is open may end, and check.go holds the
// journal, the announcements, the statistics and what the model was asked
// against what callers were told.
//
// `make test` runs it for some seconds, `make soak` for as long as SOAK says.
package faults
