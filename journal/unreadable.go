package journal

import (
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxNoted bounds the memory for unreadable messages.
const maxNoted = 10_000

// unreadable counts and logs the messages and objects that cannot be decoded, each
// once: a damaged message is read again and again. An older version may meet
// messages of a newer one; they must not stop it.
type unreadable struct {
	mu    sync.Mutex
	noted map[string]struct{}
	count prometheus.Counter
}

func newUnreadable() *unreadable {
	return &unreadable{noted: map[string]struct{}{}, count: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ray_executor_journal_unreadable_total", Help: "Messages and objects of the journal that this process could not read, each once.",
	})}
}

// note counts and logs a message or an object at the first time.
func (u *unreadable) note(log *slog.Logger, what string, why error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.noted[what]; known || len(u.noted) == maxNoted {
		return
	}
	u.noted[what] = struct{}{}
	u.count.Inc()
	log.Error("cannot be read, and is skipped", "what", what, "reason", why)
}
