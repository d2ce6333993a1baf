package functions

import (
	"context"

	"google.golang.org/protobuf/proto"

	"rayexecutor/auth"
	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Submit accepts a deliberation: it is in the journal when this returns, and
// will end exactly once, whether or not a Ray cluster is up. Repeating a call is
// safe. The same id with the same request is the same deliberation; with another
// request, or if another tenant uses the id, it is a Conflict.
//
// An error names the id, also one that was chosen here. After Unavailable the
// outcome is unknown, and a repeat with that id finds it.
func (f *Functions) Submit(ctx context.Context, request *pb.ExecuteDeliberationRequest, origin Origin) (*pb.ExecuteDeliberationResponse, error) {
	caller, err := f.callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if named := request.GetDeliberationId(); !caller.Admin() && !deliberation.MayName(caller.Tenant, named) {
		return nil, deliberation.Invalidf("deliberation_id", "has the form of ids that the server derives for others: choose another")
	}
	id := idOf(request, origin, caller)
	record, err := f.rules.Accept(id, request)
	if err != nil {
		return nil, about(id, err)
	}
	if err := caller.MaySubmitTo(record.GetPool()); err != nil {
		return nil, about(id, err)
	}
	record.Tenant = caller.Tenant
	if err := f.checkWorkers(ctx, record); err != nil {
		return nil, about(id, err)
	}
	existing, err := f.journal.Accept(ctx, record, origin.TraceParent)
	if err != nil {
		return nil, about(id, err)
	}
	switch {
	case existing == nil:
		f.metrics.accepted.Inc()
		f.logEvent(ctx, "accepted", id, record.GetPool(), origin.TraceParent)
		return receipt(id, acceptedNow), nil
	// Model: AnswerExisting.
	case caller.Sees(existing.GetTenant()) && sameRequest(existing, request):
		return receipt(id, "was accepted before; this is the same deliberation"), nil
	default:
		return nil, &deliberation.Error{
			Code: deliberation.Conflict, Field: "deliberation_id", DeliberationID: id,
			Message: "is in use for another request: to repeat a request send it unchanged, for a new one use another id",
		}
	}
}

// sameRequest reports whether a request equals the recorded one of its id, both
// as they were sent: an operator who changes a default does not turn a repeat
// into a conflict.
//
// deliberation_id does not count. Both requests have the same id, and it may come
// from the message, the event, an Idempotency-Key or the error of the first call.
func sameRequest(existing *pb.DeliberationRequested, request *pb.ExecuteDeliberationRequest) bool {
	recorded := existing.GetRequest()
	if recorded == nil {
		return false
	}
	recorded.DeliberationId = request.GetDeliberationId()
	return proto.Equal(recorded, request)
}

// idOf returns the id of a request: its own, the door's for the caller's tenant, or
// a fresh one. Only the last is not the same for a repeated call.
func idOf(request *pb.ExecuteDeliberationRequest, origin Origin, caller *auth.Caller) string {
	switch {
	case request.GetDeliberationId() != "":
		return request.GetDeliberationId()
	case origin.DeliberationID != "":
		return deliberation.TenantID(caller.Tenant, origin.DeliberationID)
	default:
		return deliberation.FreshID(caller.Tenant)
	}
}

// about returns a copy of an error that names its deliberation. It copies, because
// the journal's errors may be shared. An id that is invalid is not repeated to the
// caller: the error says what is wrong with it.
func about(id string, err error) error {
	coded := *deliberation.AsError(err)
	if deliberation.ValidID(id) {
		coded.DeliberationID = id
	}
	return &coded
}

// acceptedNow is the message of a deliberation's first receipt.
const acceptedNow = "accepted; GetDeliberationStatus returns its state"

// isNew reports whether a receipt is the first of its deliberation: REST answers
// that with 202. The status is "submitted" either way, as existing clients expect.
func isNew(receipt *pb.ExecuteDeliberationResponse) bool { return receipt.GetMessage() == acceptedNow }

func receipt(id, message string) *pb.ExecuteDeliberationResponse {
	return &pb.ExecuteDeliberationResponse{DeliberationId: id, Status: "submitted", Message: message}
}
