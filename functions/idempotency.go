package functions

import (
	"net/http"

	"google.golang.org/protobuf/proto"

	"rayexecutor/auth"
	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// idempotencyKey is the header of draft-ietf-httpapi-idempotency-key-header. A
// submission that repeats it is the same deliberation, however often it arrives
// and at whichever instance: the key becomes the deliberation's id, and the
// journal accepts an id once.
const idempotencyKey = "Idempotency-Key"

// originOf reads the trace context and the idempotency key of a call. A request
// that names a deliberation_id besides the key must mean the same id.
func originOf(r *http.Request, request proto.Message) (Origin, error) {
	origin := Origin{TraceParent: r.Header.Get(events.TraceParent)}
	submit, ok := request.(*pb.ExecuteDeliberationRequest)
	if !ok || len(r.Header.Values(idempotencyKey)) == 0 {
		return origin, nil
	}
	origin.DeliberationID = keyedID(r.Header.Get(idempotencyKey))
	if caller := auth.From(r.Context()); caller != nil && origin.DeliberationID != "" {
		origin.DeliberationID = deliberation.TenantID(caller.Tenant, origin.DeliberationID)
	}
	if id := submit.GetDeliberationId(); origin.DeliberationID == "" || id != "" && id != origin.DeliberationID {
		return origin, deliberation.Invalidf(idempotencyKey, "must not be empty, nor name another deliberation than deliberation_id: send either")
	}
	return origin, nil
}

// keyedID derives the deliberation's id from an Idempotency-Key. A key that is a
// valid id is the id, so that callers find it again by their key; any other is
// replaced by its digest. The draft standard quotes the value: quotes are removed.
func keyedID(key string) string {
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	if key == "" || deliberation.ValidID(key) {
		return key
	}
	return "key-" + deliberation.Digest(key)
}
