package functions

import (
	"context"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Submit accepts a deliberation: it is in the journal when this returns, and
// will end exactly once, whether or not a Ray cluster is up. The same id with
// the same request, as it was sent, is the same deliberation; with another
// request it is a Conflict.
func (f *Functions) Submit(ctx context.Context, request *pb.ExecuteDeliberationRequest, origin Origin) (*pb.ExecuteDeliberationResponse, error) {
	id := idOf(request, origin)
	record, err := f.rules.Accept(id, request)
	if err != nil {
		return nil, about(id, err)
	}
	standing, err := f.journal.Accept(ctx, record, origin.TraceParent)
	if err != nil {
		return nil, about(id, err)
	}
	switch {
	case standing == nil:
		f.metrics.accepted.Inc()
		return receipt(id, acceptedNow), nil
	// Model: AnswerExisting.
	case proto.Equal(standing.GetRequest(), request):
		return receipt(id, "was accepted before; this is the same deliberation"), nil
	default:
		return nil, &deliberation.Error{
			Code: deliberation.Conflict, Field: "deliberation_id", DeliberationID: id,
			Message: "stands for another request: to repeat a request send it unchanged, for a new one use another id",
		}
	}
}

// idOf returns the id that a request goes by: its own, the door's, or a fresh
// one.
func idOf(request *pb.ExecuteDeliberationRequest, origin Origin) string {
	switch {
	case request.GetDeliberationId() != "":
		return request.GetDeliberationId()
	case origin.DeliberationID != "":
		return origin.DeliberationID
	default:
		return deliberation.NewID()
	}
}

// about notes in a coded error which deliberation it concerns.
func about(id string, err error) error {
	coded := *deliberation.AsError(err)
	if deliberation.ValidID(id) {
		coded.DeliberationID = id
	}
	return &coded
}

// acceptedNow is what the first receipt of a deliberation says.
const acceptedNow = "accepted; ask GetDeliberationStatus where it stands"

// isNew reports whether a receipt is the first of its deliberation.
func isNew(receipt *pb.ExecuteDeliberationResponse) bool { return receipt.GetMessage() == acceptedNow }

func receipt(id, message string) *pb.ExecuteDeliberationResponse {
	return &pb.ExecuteDeliberationResponse{DeliberationId: id, Status: "submitted", Message: message}
}
