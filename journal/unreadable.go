package journal

import (
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// mostNoted bounds what is remembered of what cannot be read.
const mostNoted = 10_000

// unreadable notes what the journal holds and nobody can read: each once.
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

// note counts and logs what was not noted before.
func (u *unreadable) note(log *slog.Logger, what string, why error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.noted[what]; known || len(u.noted) == mostNoted {
		return
	}
	u.noted[what] = struct{}{}
	u.count.Inc()
	log.Error("cannot be read, and is passed over", "what", what, "reason", why)
}

// Metrics are what the journal's reader counts, to be registered by its owner.
func (j *Journal) Metrics() []prometheus.Collector {
	return []prometheus.Collector{j.unreadable.count, j.terminated}
}
