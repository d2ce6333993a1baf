package journal

import (
	"sync"
	"time"
)

// Throttle lets through what is due once a minute: a failure that goes on is not
// worth a line in the log each time. Its zero value is ready; it is safe for
// concurrent use.
type Throttle struct {
	mu   sync.Mutex
	last time.Time
}

// Due reports whether the last time was a minute ago or longer, and counts this
// one where it was.
func (t *Throttle) Due() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last) < time.Minute {
		return false
	}
	t.last = time.Now()
	return true
}
