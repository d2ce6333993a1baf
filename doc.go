// Package function wires the functions into one HTTP handler, which `func run`,
// Knative and `ray-executor serve` start alike. func scaffolds this package.
//
// The tour, from the outside in:
//
//   - function.go wires; cmd/ray-executor serves it, and has the commands.
//   - functions holds the operations, one file each, behind one router.
//   - events converts between protobuf, CloudEvents, HTTP and NATS.
//   - deliberation holds the rules: ids, limits, states, the folds, errors.
//   - journal is the JetStream stream that holds all state.
//   - keeper announces ends, enforces deadlines and carries statistics forward.
//   - ray deploys the worker, in Python, that runs the agents on a cluster.
//
// ARCHITECTURE.md draws the path of one deliberation through them.
package function
