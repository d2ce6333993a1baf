package journal

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/gate"
)

// skipResults marks the context of whoever has no use for agents' results.
type skipResults struct{}

// withoutResults returns a context in which stories have no results that went
// to the object store: a list tells none of them.
func withoutResults(ctx context.Context) context.Context {
	return context.WithValue(ctx, skipResults{}, true)
}

func skipsResults(ctx context.Context) bool { return ctx.Value(skipResults{}) != nil }

// countObject counts an object before it is read, for a caller who came through
// the gate. What cannot be looked up is left to the read itself.
func countObject(ctx context.Context, store jetstream.ObjectStore, name string) error {
	if !gate.Counts(ctx) {
		return nil
	}
	info, err := store.GetInfo(ctx, name)
	if err != nil {
		return nil //nolint:nilerr // the read that follows says so
	}
	return gate.Take(ctx, int(info.Size))
}
