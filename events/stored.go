package events

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// MarshalStored writes a message as the journal and its object store hold it. The
// same message has the same bytes.
//
// A request with a strategy that compares is in `strategy_request`. A worker from
// before strategies, after a rollback, finds no agents and refuses the request. In
// `request` it would run it without its strategy, and nothing would report that.
func MarshalStored(message proto.Message) ([]byte, error) {
	if record, ok := message.(*pb.DeliberationRequested); ok && deliberation.Compares(record.GetRequest()) {
		guarded := proto.Clone(record).(*pb.DeliberationRequested)
		guarded.StrategyRequest, guarded.Request = guarded.GetRequest(), &pb.ExecuteDeliberationRequest{}
		message = guarded
	}
	data, err := marshalProto(message)
	if err != nil {
		return nil, fmt.Errorf("marshal %s: %w", Type(message), err)
	}
	return data, nil
}

// UnmarshalStored reads what MarshalStored has written. The request is in `request`,
// whichever strategy it has.
func UnmarshalStored(data []byte, into proto.Message) error {
	if err := proto.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read a %s: %w", Type(into), err)
	}
	if record, ok := into.(*pb.DeliberationRequested); ok && record.GetStrategyRequest() != nil && len(record.GetRequest().GetAgents()) == 0 {
		record.Request, record.StrategyRequest = record.GetStrategyRequest(), nil
	}
	return nil
}
