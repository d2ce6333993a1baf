package functions

import (
	"context"
	"errors"
	"net/http"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

// mountRPC puts the service on its routes, for gRPC, gRPC-Web and Connect, with
// reflection and the standard health service beside it.
func (f *Functions) mountRPC(mux *http.ServeMux) {
	reflector := grpcreflect.NewStaticReflector(rayexecutorv1connect.RayExecutorServiceName, grpchealth.HealthV1ServiceName)
	ours, question := f.rpcDoors(mux, gate.MaxBody), f.rpcDoors(mux, maxQuestion)
	ours(rayexecutorv1connect.NewRayExecutorServiceHandler(rpcs{f},
		connect.WithReadMaxBytes(gate.MaxBody), connect.WithCodec(protoCodec{}),
		connect.WithCodec(jsonCodec{"json"}), connect.WithCodec(jsonCodec{"json; charset=utf-8"})))
	short := connect.WithReadMaxBytes(maxQuestion)
	question(grpchealth.NewHandler(checker{f}, short))
	question(grpcreflect.NewHandlerV1(reflector, short))
	question(grpcreflect.NewHandlerV1Alpha(reflector, short))
}

// maxQuestion is what health and reflection are asked at most, in bytes.
const maxQuestion = 64 << 10

var rpcRefusals = connect.NewErrorWriter()

// rpcDoors returns what puts services on their routes, with the gate in front
// of them.
func (f *Functions) rpcDoors(mux *http.ServeMux, maxBody int64) func(path string, service http.Handler) {
	return func(path string, service http.Handler) {
		mux.Handle(path, f.gate.Before(&gate.Door{
			Handler: service, MaxBody: maxBody, ReadError: rpcError,
			Refuse: func(w http.ResponseWriter, r *http.Request, err error) {
				f.metrics.observe("", err, 0)
				f.logFailure(r.Context(), "", err)
				_ = rpcRefusals.Write(w, r, rpcError(err)) // a caller who went away
			},
		}))
	}
}

// rpcs is the service of the proto file.
type rpcs struct{ f *Functions }

// ExecuteDeliberation submits.
func (s rpcs) ExecuteDeliberation(ctx context.Context, request *pb.ExecuteDeliberationRequest) (*pb.ExecuteDeliberationResponse, error) {
	return rpc[*pb.ExecuteDeliberationResponse](ctx, s.f, request)
}

// GetDeliberationStatus tells an unknown id as the status not_found, as the
// Python service's clients know it.
func (s rpcs) GetDeliberationStatus(ctx context.Context, request *pb.GetDeliberationStatusRequest) (*pb.GetDeliberationStatusResponse, error) {
	return rpc[*pb.GetDeliberationStatusResponse](ctx, s.f, request)
}

// GetStatus tells health and statistics.
func (s rpcs) GetStatus(ctx context.Context, request *pb.GetStatusRequest) (*pb.GetStatusResponse, error) {
	return rpc[*pb.GetStatusResponse](ctx, s.f, request)
}

// GetActiveJobs lists what has not ended.
func (s rpcs) GetActiveJobs(ctx context.Context, request *pb.GetActiveJobsRequest) (*pb.GetActiveJobsResponse, error) {
	return rpc[*pb.GetActiveJobsResponse](ctx, s.f, request)
}

// CancelDeliberation tells an unknown id as NOT_FOUND.
func (s rpcs) CancelDeliberation(ctx context.Context, request *pb.CancelDeliberationRequest) (*pb.CancelDeliberationResponse, error) {
	reply, err := rpc[*pb.CancelDeliberationResponse](ctx, s.f, request)
	if err != nil {
		return nil, err
	}
	return reply, rpcError(found(reply))
}

// ListDeliberations pages through the journal.
func (s rpcs) ListDeliberations(ctx context.Context, request *pb.ListDeliberationsRequest) (*pb.ListDeliberationsResponse, error) {
	return rpc[*pb.ListDeliberationsResponse](ctx, s.f, request)
}

// WatchDeliberation streams until the end. Send(nil) sends the headers.
func (s rpcs) WatchDeliberation(ctx context.Context, request *pb.WatchDeliberationRequest, stream *connect.ServerStream[pb.WatchDeliberationResponse]) error {
	if s.f.nameOf(watchRequest) == "" {
		return errNotServed
	}
	send := func(event *pb.WatchDeliberationResponse) error {
		return gate.Send(ctx, func() error { return stream.Send(event) })
	}
	if err := s.f.Watch(ctx, request, send); err != nil {
		return rpcError(err)
	}
	return ctx.Err()
}

var errNotServed = connect.NewError(connect.CodeUnimplemented,
	errors.New("this instance does not serve the method: see its setting FUNCTIONS"))

// rpc answers a call by the operation of its request.
func rpc[Reply proto.Message](ctx context.Context, f *Functions, request proto.Message) (none Reply, err error) {
	if f.nameOf(request.ProtoReflect().Descriptor().FullName()) == "" {
		return none, errNotServed
	}
	origin := Origin{}
	if call, ok := connect.CallInfoForHandlerContext(ctx); ok {
		origin.TraceParent = call.RequestHeader().Get(events.TraceParent)
	}
	reply, err := f.call(ctx, request, origin)
	if err != nil {
		return none, rpcError(err)
	}
	return reply.(Reply), nil
}

// rpcError is an error as the table has it, with details: our own Error, which
// has the field and the deliberation, and what of google.rpc fits. nil is nil.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	coded := deliberation.AsError(err)
	told := connect.NewError(answers[coded.Code].rpc, errors.New(coded.Error()))
	details := []proto.Message{asMessage(coded)}
	if coded.Code == deliberation.Invalid {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: coded.Field, Description: coded.Message},
		}})
	}
	if retryable(coded.Code) {
		told.Meta().Set("Retry-After", retryAfter(coded))
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(coded.RetryAfter)})
	}
	for _, one := range details {
		if detail, err := connect.NewErrorDetail(one); err == nil { // it fails for text that is no UTF-8
			told.AddDetail(detail)
		}
	}
	return told
}

// jsonCodec reads and writes JSON as every other door does.
type jsonCodec struct{ name string }

// Name is the codec's name in content types.
func (c jsonCodec) Name() string { return c.name }

// Marshal writes snake_case, zero values included.
func (jsonCodec) Marshal(message any) ([]byte, error) {
	return events.MarshalJSON(message.(proto.Message))
}

// Unmarshal refuses fields that there are not.
func (jsonCodec) Unmarshal(data []byte, into any) error {
	return events.UnmarshalJSON(data, into.(proto.Message))
}

// protoCodec reads protobuf as every other door does.
type protoCodec struct{}

// Name is the codec's name in content types.
func (protoCodec) Name() string { return "proto" }

// Marshal writes protobuf.
func (protoCodec) Marshal(message any) ([]byte, error) { return proto.Marshal(message.(proto.Message)) }

// MarshalAppend writes protobuf behind what is there.
func (protoCodec) MarshalAppend(before []byte, message any) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(before, message.(proto.Message))
}

// Unmarshal refuses what holds more than a request may.
func (protoCodec) Unmarshal(data []byte, into any) error {
	return events.UnmarshalProto(data, into.(proto.Message))
}

// checker is the standard health service: it follows readiness.
type checker struct{ f *Functions }

// Check tells whether the journal has been reached.
func (c checker) Check(ctx context.Context, request *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if request.Service != "" && request.Service != rayexecutorv1connect.RayExecutorServiceName {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such service: "+deliberation.Short(request.Service)))
	}
	status := grpchealth.StatusNotServing
	if c.f.Ready(ctx) == nil {
		status = grpchealth.StatusServing
	}
	return &grpchealth.CheckResponse{Status: status}, nil
}
