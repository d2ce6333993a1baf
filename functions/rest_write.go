package functions

import (
	"net/http"

	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// answer calls the operation and writes its reply. An unknown id is 404 here,
// while the reply to an event has the status not_found.
func (api *rest) answer(w http.ResponseWriter, r *http.Request, request proto.Message) {
	origin, err := originOf(r, request)
	if err != nil {
		api.f.refuse(w, r, "submit", err)
		return
	}
	reply, err := api.f.call(r.Context(), request, origin)
	if err == nil {
		err = found(reply)
	}
	var body []byte
	if err == nil {
		body, err = events.MarshalJSON(reply)
	}
	if err != nil {
		WriteError(w, err)
		return
	}
	writeReply(w, reply, body)
}

// writeReply writes a reply. A submission has its URL in Location; its status is
// 202 for a new deliberation and 200 for a repeated request.
func writeReply(w http.ResponseWriter, reply proto.Message, body []byte) {
	status := http.StatusOK
	w.Header().Set("Content-Type", events.JSON)
	if receipt, ok := reply.(*pb.ExecuteDeliberationResponse); ok {
		w.Header().Set("Location", "/v1/deliberations/"+receipt.GetDeliberationId())
		if isNew(receipt) {
			status = http.StatusAccepted
		}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // it fails only if the caller has disconnected
}
