// Package function wires the functions into one HTTP handler, which `func run`,
// Knative and `ray-executor serve` start alike. func scaffolds this package.
//
// A caller submits a deliberation: a task and its agents. The functions store it
// in the journal, a JetStream stream. Workers on Ray pull it, ask a model for each
// agent, and record the results. A keeper announces its end.
//
// The tour, from the outside in:
//
//   - function.go wires; cmd/ray-executor serves it, and has the commands.
//   - gate limits what all callers take together, in front of every door.
//   - functions has the operations, one file each, and the doors.
//   - events converts between protobuf, CloudEvents, HTTP and NATS.
//   - deliberation has the rules: ids, limits, states, the folds, errors.
//   - journal is the JetStream stream that stores all state.
//   - keeper announces ends, enforces deadlines and stores the statistics;
//     keeper/relay posts ends to a sink.
//   - ray deploys the worker, in Python, that runs the agents on a cluster.
//   - client calls a function server from Go, with retries and resumed streams.
//   - config reads the settings.
//
// ARCHITECTURE.md draws the path of one deliberation through them, and has the
// glossary.
package function
