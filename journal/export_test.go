package journal

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// SetCapacity sets the cached state of the journal and its age.
func (j *Journal) SetCapacity(info *jetstream.StreamInfo, ago time.Duration) {
	j.capacity.set(info)
	j.capacity.mu.Lock()
	defer j.capacity.mu.Unlock()
	j.capacity.seen = time.Now().Add(-ago)
}

// RefusesAt reports whether too many are open, at a time of the server's clock.
func (j *Journal) RefusesAt(ctx context.Context, now time.Time) bool {
	j.refreshOpen(ctx, now)
	return j.capacity.refusal(false) != nil
}
