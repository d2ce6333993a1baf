package journal

import (
	"context"
	"slices"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// A page looks through so many journal sequences at most, so that its cost
// does not grow with history, and stops once it has read so many requests. It
// goes backwards in steps; one that finds little makes the next one longer.
const (
	scanWindow   = 20_000
	scanRequests = 500
	scanStep     = 128
	scanLongStep = 4096
)

// Page returns the stories that a query asks for, newest first. It stops at
// query.Size stories or after a bounded scan; next is the Before of the next
// page, 0 at the end.
func (j *Journal) Page(ctx context.Context, query deliberation.Query) (page []*deliberation.Deliberation, next uint64, err error) {
	info, err := j.info(ctx)
	if err != nil {
		return nil, 0, err
	}
	first, high := info.State.FirstSeq, info.State.LastSeq+1
	if query.Before > 0 {
		high = min(high, query.Before)
	}
	floor := max(first, high-min(high, scanWindow))
	for read, step := 0, uint64(scanStep); high > floor && read < scanRequests; {
		low := max(floor, high-min(high, step))
		requests, err := j.requests(ctx, low, high, query.Pool)
		if err != nil {
			return nil, 0, err
		}
		for _, request := range slices.Backward(requests) {
			story, err := j.match(ctx, request, query)
			if err != nil {
				return nil, 0, err
			}
			if story == nil {
				continue
			}
			if page = append(page, story); len(page) == query.Size {
				return page, following(request.Sequence, first), nil
			}
		}
		read += len(requests)
		if high = low; len(requests) < scanStep/8 {
			step = min(2*step, scanLongStep)
		}
	}
	return page, following(high, first), nil
}

// match returns a request's story if the query asks for it, else nil.
func (j *Journal) match(ctx context.Context, request deliberation.Entry, query deliberation.Query) (*deliberation.Deliberation, error) {
	record := request.Event.(*pb.DeliberationRequested)
	if query.TaskID != "" && record.GetTaskId() != query.TaskID {
		return nil, nil
	}
	story, err := j.Story(ctx, record.GetDeliberationId())
	if err != nil || story.State == deliberation.Unknown || query.State != "" && story.State != query.State {
		return nil, err
	}
	return story, nil
}

// following returns where a page after one that ended at a sequence starts; 0
// where nothing can come before it.
func following(sequence, first uint64) uint64 {
	if sequence <= first {
		return 0
	}
	return sequence
}

// requests reads the requests that stand from low to before high, one by one:
// with a batch the server counts all that follow, to the journal's end.
func (j *Journal) requests(ctx context.Context, low, high uint64, pool string) ([]deliberation.Entry, error) {
	subject := events.RequestedSubjects
	if pool != "" {
		subject = events.PoolSubject(pool)
	}
	var entries []deliberation.Entry
	for low < high {
		message, err := j.next(ctx, subject, low)
		if err != nil {
			return nil, err
		}
		if message == nil || message.Sequence >= high {
			break
		}
		entry, err := j.entry(ctx, message)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
		low = message.Sequence + 1
	}
	return entries, nil
}
