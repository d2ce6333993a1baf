package journal

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/gate"
)

// skipResults is the key of withoutResults.
type skipResults struct{}

// withoutResults returns a context in which offloaded results are not inlined: a
// list has no results, and each object is a read of its own.
func withoutResults(ctx context.Context) context.Context {
	return context.WithValue(ctx, skipResults{}, true)
}

func skipsResults(ctx context.Context) bool { return ctx.Value(skipResults{}) != nil }

// countObject reserves the memory for an object at the gate before it is read. If
// the size cannot be read, the read that follows reports the error.
func countObject(ctx context.Context, store jetstream.ObjectStore, name string) error {
	if !gate.Counts(ctx) {
		return nil
	}
	info, err := store.GetInfo(ctx, name)
	if err != nil {
		return nil //nolint:nilerr // the read that follows reports it
	}
	return gate.Take(ctx, int(info.Size))
}
