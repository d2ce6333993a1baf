package journal

import (
	"context"
	"slices"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

// A page looks through so many journal sequences at most, so that its cost
// does not grow with history, and stops once it has read so many requests. It
// goes backwards in steps. A request may have a megabyte: so many bytes are read.
const (
	scanWindow   = 20_000
	scanRequests = 500
	scanBytes    = 8 << 20
	scanStep     = 8
	scanLongStep = 4096
)

// Page summarises the stories that a query asks for, newest first. It stops at
// query.Size stories, when they are large, or after a bounded scan; next is the
// Before of the next page, 0 at the end.
func (j *Journal) Page(ctx context.Context, query deliberation.Query) (summaries []*pb.DeliberationSummary, next uint64, err error) {
	info, err := j.info(ctx)
	if err != nil {
		return nil, 0, err
	}
	first, high := info.State.FirstSeq, info.State.LastSeq+1
	if query.Before > 0 {
		high = min(high, query.Before)
	}
	floor := max(first, high-min(high, scanWindow))
	ctx = withoutResults(ctx)
	page := deliberation.NewPage(query.Size)
	read, step := looks{}, uint64(scanStep)
	for high > floor && read.requests < scanRequests && read.bytes < scanBytes {
		low := max(floor, high-min(high, step))
		requests, looked, err := j.requests(ctx, low, high, query.Pool)
		if err != nil {
			return nil, 0, err
		}
		for _, request := range slices.Backward(requests) {
			if err := j.match(ctx, request, query, page); err != nil {
				return nil, 0, err
			}
			if page.Full() {
				return page.Summaries, following(request.sequence, first), nil
			}
		}
		high = low
		read.requests, read.bytes = read.requests+looked.requests, read.bytes+looked.bytes
		step = followingStep(step, looked)
	}
	return page.Summaries, following(high, first), nil
}

// looks is how much was read for a page.
type looks struct{ requests, bytes int }

// followingStep is longer than a step that found few requests, or small ones,
// and shorter than one that found large ones.
func followingStep(step uint64, found looks) uint64 {
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

// match puts a request's story on the page if the query asks for it. The story
// is not held beyond that.
func (j *Journal) match(ctx context.Context, request listed, query deliberation.Query, page *deliberation.Page) error {
	if query.TaskID != "" && request.taskID != query.TaskID {
		return nil
	}
	ctx, back := gate.Borrow(ctx)
	defer back()
	story, err := j.Read(ctx, request.id)
	if err != nil {
		return err
	}
	page.Count(story)
	if story.State != deliberation.Unknown && (query.State == "" || story.State == query.State) {
		page.Add(story)
	}
	return nil
}

// following returns where a page after one that ended at a sequence starts; 0
// where nothing can come before it.
func following(sequence, first uint64) uint64 {
	if sequence <= first {
		return 0
	}
	return sequence
}

// listed is what a list holds of a request while it looks on: requests may be
// a megabyte each.
type listed struct {
	sequence   uint64
	id, taskID string
}

// requests reads the requests that stand from low to before high, one by one,
// and tells how many there were, those of other pools included. With a batch the
// server counts all that follow, to the journal's end; asked for one pool, it
// searches for the next request of it as far, and under a lock.
func (j *Journal) requests(ctx context.Context, low, high uint64, pool string) (entries []listed, looked looks, err error) {
	for low < high {
		message, err := j.next(ctx, events.RequestedSubjects, low)
		if err != nil {
			return nil, looks{}, err
		}
		if message == nil || message.Sequence >= high {
			break
		}
		low = message.Sequence + 1
		looked.requests++
		looked.bytes += len(message.Data)
		if _, its, _, _ := events.ParseSubject(message.Subject); pool != "" && its != pool {
			continue
		}
		entry, err := j.entry(ctx, message)
		if err != nil {
			return nil, looks{}, err
		}
		if !entry.Unreadable {
			record := entry.Event.(*pb.DeliberationRequested)
			entries = append(entries, listed{entry.Sequence, record.GetDeliberationId(), record.GetTaskId()})
		}
	}
	return entries, looked, nil
}
