//go:build !race

package journal_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"rayexecutor/journal/journaltest"
)

// TestAllocations: what a submit and a status allocate on their way into the
// journal and back has not grown. The server is in this process, so its part
// counts too, and so does what it does now and then (its timers, a file that
// is full, a collection that empties pools): hence one in twenty more is let
// pass. Who makes them fewer writes the new count down, and who makes them
// more says in the commit why it is worth it.
func TestAllocations(t *testing.T) {
	w := setup(t)
	seed(t, w.server.URL, "ended", 1)
	w.accept(t, "running", 3)
	w.start(t, "running", 1, time.Time{}, 0)
	w.agent(t, "running", 0, "yes")
	next := 0
	for _, one := range []struct {
		name string
		call func(context.Context) error
		most float64
	}{
		{"submit", func(ctx context.Context) error {
			next++
			_, err := w.Accept(ctx, journaltest.Record(fmt.Sprintf("new-%d", next), 3, 300), "")
			return err
		}, 91},
		{"status of what has ended", func(ctx context.Context) error { _, err := w.Read(ctx, "ended-0"); return err }, 229},
		{"status of what runs", func(ctx context.Context) error { _, err := w.Read(ctx, "running"); return err }, 459},
	} {
		t.Run(one.name, func(t *testing.T) {
			got := testing.AllocsPerRun(1000, func() {
				if err := one.call(t.Context()); err != nil {
					t.Fatal(err)
				}
			})
			if got > one.most*1.05 {
				t.Errorf("%.0f allocations a call, no longer %.0f", got, one.most)
			}
		})
	}
}
