package functions

import (
	"context"

	pb "rayexecutor/proto/ray_executor/v1"
)

// Status tells where a deliberation stands. An unknown id is no error: its
// status is not_found.
func (f *Functions) Status(ctx context.Context, request *pb.GetDeliberationStatusRequest, _ Origin) (*pb.GetDeliberationStatusResponse, error) {
	if err := f.rules.Check(request); err != nil {
		return nil, err
	}
	story, err := f.journal.Read(ctx, request.GetDeliberationId())
	if err != nil {
		return nil, about(request.GetDeliberationId(), err)
	}
	return story.Status(request.GetDeliberationId()), nil
}
