package journal

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// SeeRoom has the journal believe that it looked at a state a while ago.
func (j *Journal) SeeRoom(info *jetstream.StreamInfo, ago time.Duration) {
	j.room.set(info)
	j.room.mu.Lock()
	defer j.room.mu.Unlock()
	j.room.seen = time.Now().Add(-ago)
}
