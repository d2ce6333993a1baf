package function

// The tour, from the outside in:
//
//   - function.go wires; cmd/ray-executor serves it, and has the commands.
//   - functions holds the operations, one file each, behind one router.
//   - events goes between protobuf, CloudEvents, HTTP and NATS.
//   - deliberation holds the rules: ids, limits, states, the folds, errors.
//   - journal is the JetStream stream that holds all state.
//   - keeper announces ends, keeps deadlines and carries statistics forward.
//   - ray deploys the worker, in Python, that runs the agents on a cluster.
//
// ARCHITECTURE.md draws the way of one deliberation through them.
