package journal

import (
	"context"
	"errors"
	"slices"

	"github.com/synadia-io/orbit.go/jetstreamext"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// scanWindow is how many journal sequences a page looks through at most, so
// that its cost does not grow with history.
const scanWindow = 20_000

// scanStep is how many requests are read at once.
const scanStep = 256

// Page returns the stories that a query asks for, newest first. It stops at
// query.Size stories or after a bounded scan; next is the Before of the next
// page, 0 at the end.
func (j *Journal) Page(ctx context.Context, query deliberation.Query) (page []*deliberation.Deliberation, next uint64, err error) {
	info, err := j.info(ctx)
	if err != nil {
		return nil, 0, err
	}
	first, end := info.State.FirstSeq, info.State.LastSeq+1
	if query.Before > 0 {
		end = min(end, query.Before)
	}
	floor := max(first, end-min(end, scanWindow))
	for high := end; high > floor; {
		low := max(floor, high-min(high, scanStep))
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
		high = low
	}
	return page, following(floor, first), nil
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

// requests reads the requests that stand from low to before high.
func (j *Journal) requests(ctx context.Context, low, high uint64, pool string) ([]deliberation.Entry, error) {
	subject := events.RequestedSubjects
	if pool != "" {
		subject = events.PoolSubject(pool)
	}
	messages, err := jetstreamext.GetBatch(ctx, j.js, Stream, scanStep,
		jetstreamext.GetBatchSeq(max(1, low)), jetstreamext.GetBatchSubject(subject))
	if err != nil {
		return nil, j.failed("read the journal", err)
	}
	var entries []deliberation.Entry
	for message, err := range messages {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return nil, j.failed("read the journal", err)
		}
		if message.Sequence >= high {
			break
		}
		entry, err := j.entry(ctx, message)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}
