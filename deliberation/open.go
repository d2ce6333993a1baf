package deliberation

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"time"
)

// slot is an Open as the ledger holds it, without pointers: a million of them
// take some 130 MB with their ids. Times are nanoseconds since 1970.
type slot struct {
	sequence  uint64
	submitted int64
	started   int64 // 0 while it is queued
	timeout   int64 // nanoseconds
	attempts  int32
	pool      int32 // its number in names
}

const (
	never int64  = math.MaxInt64
	none  uint64 = math.MaxUint64
)

func (s slot) deadline() int64 { return s.submitted + s.timeout }

// names numbers the pools, of which there are few.
type names struct {
	all     []string
	numbers map[string]int32
}

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

func (l *Ledger) tell(id string, open slot) Open {
	told := Open{
		ID: id, Pool: l.pools.all[open.pool], Sequence: open.sequence, Attempts: open.attempts,
		Submitted: time.Unix(0, open.submitted), Timeout: time.Duration(open.timeout),
	}
	if open.started != 0 {
		told.Started = time.Unix(0, open.started)
	}
	return told
}

// Open returns what has not ended, the oldest first.
func (l *Ledger) Open() []Open {
	open := make([]Open, 0, len(l.open))
	for id, one := range l.open {
		open = append(open, l.tell(id, one))
	}
	slices.SortFunc(open, bySequence)
	return open
}

func bySequence(a, b Open) int { return cmp.Compare(a.Sequence, b.Sequence) }

// Oldest returns at most n of what has not ended and matches, the oldest first.
// The others are looked at, and neither sorted nor copied.
func (l *Ledger) Oldest(n int, matches func(Open) bool) []Open {
	return l.first(n, matches, bySequence)
}

// Newest is Oldest from the other end.
func (l *Ledger) Newest(n int, matches func(Open) bool) []Open {
	return l.first(n, matches, func(a, b Open) int { return bySequence(b, a) })
}

func (l *Ledger) first(n int, matches func(Open) bool, compare func(a, b Open) int) []Open {
	best := &worstFirst{compare: compare}
	for id, one := range l.open {
		open := l.tell(id, one)
		switch {
		case !matches(open):
		case len(best.open) < n:
			heap.Push(best, open)
		case n > 0 && compare(open, best.open[0]) < 0:
			best.open[0] = open
			heap.Fix(best, 0)
		}
	}
	slices.SortFunc(best.open, compare)
	return best.open
}

// worstFirst is a heap whose first one is the last by an order.
type worstFirst struct {
	open    []Open
	compare func(a, b Open) int
}

func (w *worstFirst) Len() int           { return len(w.open) }
func (w *worstFirst) Less(i, j int) bool { return w.compare(w.open[i], w.open[j]) > 0 }
func (w *worstFirst) Swap(i, j int)      { w.open[i], w.open[j] = w.open[j], w.open[i] }

// Push implements heap.Interface.
func (w *worstFirst) Push(open any) { w.open = append(w.open, open.(Open)) }

// Pop implements heap.Interface.
func (w *worstFirst) Pop() any { panic("nothing is taken out") }

// IsOpen reports whether a deliberation has not ended, as far as is known.
func (l *Ledger) IsOpen(id string) bool {
	_, open := l.open[id]
	return open
}

// Overdue returns at most so many of what should have ended by a time on the
// journal's clock, in an order that differs from one process to the next. It
// looks at what is open only once something is due.
func (l *Ledger) Overdue(now time.Time, most int) (overdue []Open) {
	if now.UnixNano() <= l.due {
		return nil
	}
	due := never
	for id, open := range l.open { // in an order that is drawn anew each time
		if len(overdue) == most {
			return overdue // more is due
		}
		due = min(due, open.deadline())
		if open.deadline() < now.UnixNano() {
			overdue = append(overdue, l.tell(id, open))
		}
	}
	l.due = due
	return overdue
}
