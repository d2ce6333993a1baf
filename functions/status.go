package functions

import (
	"context"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Status returns the state of a deliberation and its results so far. An unknown id
// is no error: its status is not_found, as in the Python service.
//
// It may read a replica, and so misses what was stored a moment ago, except an end:
// see Journal.Read.
func (f *Functions) Status(ctx context.Context, request *pb.GetDeliberationStatusRequest, _ Origin) (*pb.GetDeliberationStatusResponse, error) {
	if err := f.rules.Check(request); err != nil {
		return nil, err
	}
	history, err := f.journal.Read(ctx, request.GetDeliberationId())
	if err != nil {
		return nil, about(request.GetDeliberationId(), err)
	}
	return history.Status(request.GetDeliberationId()), nil
}
