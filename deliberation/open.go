package deliberation

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"
)

// slot is an Open in the ledger's own form. It has no pointers, so that the garbage
// collector need not scan it: a million take some 180 MB with their ids. Times are
// nanoseconds since 1970.
type slot struct {
	sequence  uint64
	submitted int64
	started   int64 // 0 while it is queued
	timeout   int64 // nanoseconds
	attempts  int32
	pool      int32 // their numbers in names
	tenant    int32
}

const (
	never int64  = math.MaxInt64
	none  uint64 = math.MaxUint64
)

// deadline is that of Open.Deadline.
func (s slot) deadline() int64 { return s.submitted + s.timeout }

// names numbers the pools, or the tenants, so that a slot has a number in place of a string.
type names struct {
	all     []string
	numbers map[string]int32
}

// number returns the number of a name, and assigns the next one to a new name.
func (n *names) number(name string) int32 {
	number, known := n.numbers[name]
	if !known {
		if n.numbers == nil {
			n.numbers = map[string]int32{}
		}
		number = int32(len(n.all))
		n.all = append(n.all, name)
		n.numbers[name] = number
	}
	return number
}

// export converts a slot to an Open.
func (l *Ledger) export(id string, open slot) Open {
	exported := Open{
		ID: id, Pool: l.pools.all[open.pool], Tenant: l.tenants.all[open.tenant], Sequence: open.sequence, Attempts: open.attempts,
		Submitted: time.Unix(0, open.submitted), Timeout: time.Duration(open.timeout),
	}
	if open.started != 0 {
		exported.Started = time.Unix(0, open.started)
	}
	return exported
}

// Open returns all open deliberations, the oldest first. It sorts and copies all of
// them: use Oldest or Newest for a part.
func (l *Ledger) Open() []Open {
	open := make([]Open, 0, len(l.open))
	for id, one := range l.open {
		open = append(open, l.export(id, one))
	}
	slices.SortFunc(open, bySequence)
	return open
}

func bySequence(a, b Open) int { return cmp.Compare(a.Sequence, b.Sequence) }

// Oldest returns at most n open deliberations that match, the oldest first. It reads
// all open ones, and sorts and copies only those n.
func (l *Ledger) Oldest(n int, matches func(Open) bool) []Open {
	return l.first(n, matches, bySequence)
}

// Newest is Oldest, the newest first.
func (l *Ledger) Newest(n int, matches func(Open) bool) []Open {
	return l.first(n, matches, func(a, b Open) int { return bySequence(b, a) })
}

// first returns the first n matches by an order. The heap holds the best n so far,
// with the worst of them on top.
func (l *Ledger) first(n int, matches func(Open) bool, compare func(a, b Open) int) []Open {
	best := &worstFirst{compare: compare}
	for id, one := range l.open {
		open := l.export(id, one)
		switch {
		case !matches(open):
		case len(best.open) < n:
			heap.Push(best, open)
		// It is better than the worst so far, and replaces it.
		case n > 0 && compare(open, best.open[0]) < 0:
			best.open[0] = open
			heap.Fix(best, 0)
		}
	}
	slices.SortFunc(best.open, compare)
	return best.open
}

// worstFirst is a heap with the last one by an order on top.
type worstFirst struct {
	open    []Open
	compare func(a, b Open) int
}

func (w *worstFirst) Len() int           { return len(w.open) }
func (w *worstFirst) Less(i, j int) bool { return w.compare(w.open[i], w.open[j]) > 0 }
func (w *worstFirst) Swap(i, j int)      { w.open[i], w.open[j] = w.open[j], w.open[i] }

// Push implements heap.Interface.
func (w *worstFirst) Push(open any) { w.open = append(w.open, open.(Open)) }

// Pop implements heap.Interface. The heap only grows, or replaces its top.
func (w *worstFirst) Pop() any { panic("nothing is popped") }

// IsOpen reports whether a deliberation is open, as of the last applied mark.
func (l *Ledger) IsOpen(id string) bool {
	_, open := l.open[id]
	return open
}

// Overdue returns at most so many open deliberations with a deadline before a time
// of the journal's clock. Their order is random: several keepers that end a backlog
// start at different ones. It scans the open ones only if one may be due.
func (l *Ledger) Overdue(now time.Time, most int) (overdue []Open) {
	// Most calls end here: the bound is below all deadlines, so nothing is due.
	if now.UnixNano() <= l.due {
		return nil
	}
	// A complete scan finds the exact bound; it also drops deadlines that have ended.
	due := never
	for id, open := range l.open { // Go iterates over a map in random order
		if len(overdue) == most {
			return overdue // l.due must not rise: more may be due
		}
		due = min(due, open.deadline())
		if open.deadline() < now.UnixNano() {
			overdue = append(overdue, l.export(id, open))
		}
	}
	l.due = due
	return overdue
}
