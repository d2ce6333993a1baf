package journal

import (
	"sync"
	"time"
)

// Throttle limits the log of a persistent failure to one line a minute. Its zero
// value is ready; it is safe for concurrent use.
type Throttle struct {
	mu   sync.Mutex
	last time.Time
}

// Due reports whether a line is due: the last due call was a minute ago or longer.
func (t *Throttle) Due() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last) < time.Minute {
		return false
	}
	t.last = time.Now()
	return true
}
