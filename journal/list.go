package journal

import (
	"context"
	"slices"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

// A list reads the journal backwards in steps of sequences, and each step forwards,
// because the server finds only the next message and not the previous one. The
// bounds of a page keep its cost independent of the journal's size.
const (
	// scanWindow bounds the sequences that a page covers.
	scanWindow = 20_000
	// scanRequests and scanBytes bound the requests that a page reads; one request
	// may have a megabyte.
	scanRequests = 500
	scanBytes    = 8 << 20
	// scanStep is the length of the first step, scanLongStep that of the longest.
	scanStep     = 8
	scanLongStep = 4096
)

// Page returns the deliberations that match a query, newest first. A page ends at
// query.Size deliberations, or earlier after a bounded scan, and may then be empty.
// next is the Before of the next page; 0: there is none.
//
// The pages are stable: sequences do not change, so a deliberation that is
// accepted meanwhile appears on no later page.
func (j *Journal) Page(ctx context.Context, query deliberation.Query) (summaries []*pb.DeliberationSummary, next uint64, err error) {
	info, err := j.info(ctx)
	if err != nil {
		return nil, 0, err
	}
	first, high := info.State.FirstSeq, info.State.LastSeq+1
	if query.Before > 0 {
		high = min(high, query.Before)
	}
	// All numbers are unsigned: high-min(high, n) is high-n, and 0 below that.
	floor := max(first, high-min(high, scanWindow))
	ctx = withoutResults(ctx)
	page := deliberation.NewPage(query.Size)
	read, step := scanned{}, uint64(scanStep)
	for high > floor && read.requests < scanRequests && read.bytes < scanBytes {
		low := max(floor, high-min(high, step))
		requests, found, err := j.requests(ctx, low, high, query)
		if err != nil {
			return nil, 0, err
		}
		// A step is read forwards and added backwards, so that the page is newest first.
		for _, request := range slices.Backward(requests) {
			if err := j.match(ctx, request, query, page); err != nil {
				return nil, 0, err
			}
			// The page may end inside a step: the next one starts before this request.
			if page.Full() {
				return page.Summaries, nextBefore(request.sequence, first), nil
			}
		}
		high = low
		read.requests, read.bytes = read.requests+found.requests, read.bytes+found.bytes
		step = nextStep(step, found)
	}
	return page.Summaries, nextBefore(high, first), nil
}

// scanned counts what was read for a page.
type scanned struct{ requests, bytes int }

// nextStep is longer after a step with few or small requests, and shorter after one
// with large requests: a step is read whole, so it must not overshoot the bounds
// by much.
func nextStep(step uint64, found scanned) uint64 {
	switch {
	case uint64(found.requests) <= step/8:
		return min(2*step, scanLongStep)
	case found.bytes > scanBytes/4:
		return max(step/2, 1)
	case found.bytes < scanBytes/32:
		return max(step, min(2*step, 32))
	default:
		return step
	}
}

// match reads a request's history and adds it to the page if the query matches.
// The gate's share for the history is returned at the end: the page retains only a
// summary.
func (j *Journal) match(ctx context.Context, request listed, query deliberation.Query, page *deliberation.Page) error {
	ctx, back := gate.Borrow(ctx)
	defer back()
	history, err := j.Read(ctx, request.id)
	if err != nil {
		return err
	}
	page.Count(history)
	if history.State != deliberation.Unknown && (query.State == "" || history.State == query.State) {
		page.Add(history)
	}
	return nil
}

// nextBefore returns the Before of the page after one that ended at a sequence; 0
// if no message can come before it.
func nextBefore(sequence, first uint64) uint64 {
	if sequence <= first {
		return 0
	}
	return sequence
}

// listed is what a list retains of a request: a request may have a megabyte.
type listed struct {
	sequence uint64
	id       string
}

// requests returns what a query wants of the requests with a sequence from low up
// to but not including high, and counts all that it reads.
//
// It reads them one by one: with a batch the server also counts all requests that
// follow, up to the end of the journal. It reads those of all pools: to find the
// next request of a rare pool the server searches as far, while it holds the
// stream's lock.
func (j *Journal) requests(ctx context.Context, low, high uint64, query deliberation.Query) (entries []listed, found scanned, err error) {
	for low < high {
		message, err := j.next(ctx, events.RequestedSubjects, low)
		if err != nil {
			return nil, scanned{}, err
		}
		if message == nil || message.Sequence >= high {
			break
		}
		low = message.Sequence + 1
		found.requests++
		found.bytes += len(message.Data)
		if _, pool, _, _ := events.ParseSubject(message.Subject); query.Pool != "" && pool != query.Pool {
			continue
		}
		if query.Tenant != "" && events.Tenant(message.Header) != query.Tenant {
			continue
		}
		entry, err := j.entry(ctx, message)
		if err != nil {
			return nil, scanned{}, err
		}
		if entry.Unreadable {
			continue
		}
		if record := entry.Event.(*pb.DeliberationRequested); query.Wants(record) {
			entries = append(entries, listed{entry.Sequence, record.GetDeliberationId()})
		}
	}
	return entries, found, nil
}
