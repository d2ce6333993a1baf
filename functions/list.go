package functions

import (
	"context"
	"strconv"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	defaultPageSize = 50
	// maxLooks bounds the deliberations that a page reads.
	maxLooks = 1000
)

// List pages through the deliberations that the journal keeps, newest first.
// A page may be shorter than asked for and still have a next one: the scan
// behind it is bounded. The active ones are found without a scan.
func (f *Functions) List(ctx context.Context, request *pb.ListDeliberationsRequest, _ Origin) (*pb.ListDeliberationsResponse, error) {
	if err := f.rules.Check(request); err != nil {
		return nil, err
	}
	query, err := queryOf(request)
	if err != nil {
		return nil, err
	}
	page, next, err := f.page(ctx, query)
	if err != nil {
		return nil, err
	}
	response := &pb.ListDeliberationsResponse{Deliberations: page}
	if err := gate.Take(ctx, proto.Size(response)); err != nil {
		return nil, err
	}
	if next > 0 {
		response.NextPageToken = strconv.FormatUint(next, 10)
	}
	return response, nil
}

func queryOf(request *pb.ListDeliberationsRequest) (deliberation.Query, error) {
	query := deliberation.Query{
		Size: int(request.GetPageSize()), Pool: request.GetPool(), TaskID: request.GetTaskId(),
		State: deliberation.State(request.GetState()),
	}
	if query.Size == 0 {
		query.Size = defaultPageSize
	}
	if token := request.GetPageToken(); token != "" {
		before, err := strconv.ParseUint(token, 10, 64)
		if err != nil || before == 0 {
			return query, deliberation.Invalidf("page_token", "must be a next_page_token, unchanged")
		}
		query.Before = before
	}
	return query, nil
}

func (f *Functions) page(ctx context.Context, query deliberation.Query) ([]*pb.DeliberationSummary, uint64, error) {
	if query.State == deliberation.Queued || query.State == deliberation.Running {
		return f.activePage(ctx, query)
	}
	return f.journal.Page(ctx, query)
}

// activePage finds what has not ended in the ledger.
func (f *Functions) activePage(ctx context.Context, query deliberation.Query) (summaries []*pb.DeliberationSummary, next uint64, err error) {
	asked := func(one deliberation.Open) bool {
		return (query.Before == 0 || one.Sequence < query.Before) &&
			(query.Pool == "" || one.Pool == query.Pool) &&
			one.Started.IsZero() == (query.State == deliberation.Queued)
	}
	var open []deliberation.Open
	err = f.withLedger(ctx, func(ledger *deliberation.Ledger) { open = ledger.Newest(maxLooks, asked) })
	if err != nil {
		return nil, 0, err
	}
	page := deliberation.NewPage(query.Size)
	for place, one := range open {
		err := f.look(ctx, one.ID, func(story *deliberation.History) {
			page.Count(story)
			if story.State == query.State && !story.Unreadable && (query.TaskID == "" || story.Requested.GetTaskId() == query.TaskID) {
				page.Add(story)
			}
		})
		if err != nil {
			return nil, 0, err
		}
		if page.Full() || place+1 == maxLooks {
			return page.Summaries, one.Sequence, nil
		}
	}
	return page.Summaries, 0, nil
}

// look reads a story, of which no more is held than see takes.
func (f *Functions) look(ctx context.Context, id string, see func(*deliberation.History)) error {
	ctx, back := gate.Borrow(ctx)
	defer back()
	story, err := f.journal.Read(ctx, id)
	if err == nil {
		see(story)
	}
	return err
}
