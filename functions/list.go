package functions

import (
	"context"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// defaultPageSize is the size of a page whose request names none.
	defaultPageSize = 50
	// maxReads bounds the deliberations that a page of active ones reads, each with a
	// round trip to NATS.
	maxReads = 1000
)

// List returns a page of the deliberations in the journal, newest first. A page
// may be shorter than its size, or empty, and still have a next one, because the
// work for a page is bounded: read on until next_page_token is empty.
//
// Pages do not overlap: the token is a sequence of the journal, which never
// changes. It is valid at every instance, and as long as the journal exists.
func (f *Functions) List(ctx context.Context, request *pb.ListDeliberationsRequest, _ Origin) (*pb.ListDeliberationsResponse, error) {
	if err := f.rules.Check(request); err != nil {
		return nil, err
	}
	query, err := queryOf(request)
	if err != nil {
		return nil, err
	}
	if query.Tenant, err = f.tenantOf(ctx); err != nil {
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

// queryOf converts a request to a query. The request has been checked, except for
// its token, whose form the proto file does not fix.
func queryOf(request *pb.ListDeliberationsRequest) (deliberation.Query, error) {
	query := deliberation.Query{
		Size: int(request.GetPageSize()), Pool: request.GetPool(), TaskID: request.GetTaskId(),
		State: deliberation.State(request.GetState()),
	}
	if query.Size == 0 {
		query.Size = defaultPageSize
	}
	for _, label := range request.GetLabels() {
		key, value, _ := strings.Cut(label, "=")
		if other, found := query.Labels[key]; found && other != value {
			return query, deliberation.Invalidf("labels", "names %s twice, with different values", deliberation.Short(key))
		}
		if query.Labels == nil {
			query.Labels = make(map[string]string)
		}
		query.Labels[key] = value
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

// page finds the active ones in the ledger, which knows them all. A scan of the
// journal would read every request that has ended since to find them.
func (f *Functions) page(ctx context.Context, query deliberation.Query) ([]*pb.DeliberationSummary, uint64, error) {
	if query.State == deliberation.Queued || query.State == deliberation.Running {
		return f.activePage(ctx, query)
	}
	return f.journal.Page(ctx, query)
}

// activePage returns a page of what has not ended. The ledger proposes; each
// deliberation is read, because the ledger holds neither task ids nor labels, and lags behind
// the journal. next is the sequence of the last one that was read.
func (f *Functions) activePage(ctx context.Context, query deliberation.Query) (summaries []*pb.DeliberationSummary, next uint64, err error) {
	matches := func(one deliberation.Open) bool {
		return (query.Before == 0 || one.Sequence < query.Before) &&
			(query.Pool == "" || one.Pool == query.Pool) &&
			(query.Tenant == "" || one.Tenant == query.Tenant) &&
			one.Started.IsZero() == (query.State == deliberation.Queued)
	}
	var open []deliberation.Open
	err = f.withLedger(ctx, func(ledger *deliberation.Ledger) { open = ledger.Newest(maxReads, matches) })
	if err != nil {
		return nil, 0, err
	}
	page := deliberation.NewPage(query.Size)
	for place, one := range open {
		err := f.visit(ctx, one.ID, func(history *deliberation.History) {
			page.Count(history)
			if history.State == query.State && !history.Unreadable && query.Wants(history.Requested) {
				page.Add(history)
			}
		})
		if err != nil {
			return nil, 0, err
		}
		if page.Full() || place+1 == maxReads {
			return page.Summaries, one.Sequence, nil
		}
	}
	return page.Summaries, 0, nil
}

// visit reads a deliberation for the time of use, and gives its memory back then:
// use must retain no more than a summary. A history has up to 16 MiB, so a page of
// them would not fit the share of one request.
func (f *Functions) visit(ctx context.Context, id string, use func(*deliberation.History)) error {
	ctx, back := gate.Borrow(ctx)
	defer back()
	history, err := f.journal.Read(ctx, id)
	if err == nil {
		use(history)
	}
	return err
}
