package journal

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// SetCapacity has the journal believe that it looked at a state a while ago.
func (j *Journal) SetCapacity(info *jetstream.StreamInfo, ago time.Duration) {
	j.capacity.set(info)
	j.capacity.mu.Lock()
	defer j.capacity.mu.Unlock()
	j.capacity.seen = time.Now().Add(-ago)
}
