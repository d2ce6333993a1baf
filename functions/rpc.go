package functions

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	"rayexecutor/proto/fleet/ray_executor/v1/fleetv1connect"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

// rpcServices are the services: ours, and that of newer fleets.
var rpcServices = []string{rayexecutorv1connect.RayExecutorServiceName, fleetv1connect.RayExecutorServiceName}

// mountRPC adds the services for gRPC, gRPC-Web and Connect, with reflection and
// the standard health service. All three protocols have the same path and port:
// connect-go distinguishes them by the content type.
func (f *Functions) mountRPC(mux *http.ServeMux) {
	reflector := grpcreflect.NewStaticReflector(slices.Concat(rpcServices, []string{grpchealth.HealthV1ServiceName})...)
	service := f.rpcDoors(mux, f.gate, gate.Door{MaxBody: gate.MaxBody, Admit: f.admit})
	small := f.rpcDoors(mux, f.gate, gate.Door{MaxBody: maxQuestion, Admit: f.admit})
	// Whoever has no credentials must not take the places of those who have: probes
	// have a gate of their own.
	probed := f.rpcDoors(mux, gate.New(probeLimits), gate.Door{MaxBody: maxQuestion})
	options := connect.WithHandlerOptions(connect.WithReadMaxBytes(gate.MaxBody), connect.WithCodec(protoCodec{}),
		connect.WithCodec(jsonCodec{"json"}), connect.WithCodec(jsonCodec{"json; charset=utf-8"}))
	service(rayexecutorv1connect.NewRayExecutorServiceHandler(rpcs{f}, options))
	service(fleetv1connect.NewRayExecutorServiceHandler(fleet{rpcs{f}}, options))
	short := connect.WithReadMaxBytes(maxQuestion)
	probed(grpchealth.NewHandler(checker{f}, short))
	small(grpcreflect.NewHandlerV1(reflector, short))
	small(grpcreflect.NewHandlerV1Alpha(reflector, short))
}

// maxQuestion bounds the requests of health and reflection, in bytes. They name a
// service or a file, and probes of health have no credentials.
const maxQuestion = 64 << 10

var rpcRefusals = connect.NewErrorWriter()

// probeLimits bound the calls of gRPC's health service.
var probeLimits = gate.Limits{Requests: 64, Streams: 1, Reads: 1, Bodies: maxProbes, Replies: maxProbes, Sends: maxProbes}

const maxProbes = 1 << 20

// rpcDoors returns a function that adds a service to a mux, behind a gate and as a
// door like the given one. The gate answers in the protocol of the call: a gRPC
// client cannot read a problem document.
func (f *Functions) rpcDoors(mux *http.ServeMux, before *gate.Gate, door gate.Door) func(path string, service http.Handler) {
	door.ReadError = rpcError
	door.Refuse = func(w http.ResponseWriter, r *http.Request, err error) {
		f.metrics.observe("", err, 0)
		f.logFailure(r.Context(), "", err)
		challenge(w, err)
		_ = rpcRefusals.Write(w, r, rpcError(err)) // it fails only if the caller has disconnected
	}
	return func(path string, service http.Handler) {
		door := door
		door.Handler = service
		mux.Handle(path, before.Before(&door))
	}
}

// rpcs implements the service of the proto file. Each RPC has the operation of its
// request type; only unknown ids are answered differently.
type rpcs struct{ f *Functions }

// ExecuteDeliberation submits a deliberation. It is OK for a repeated request too.
func (s rpcs) ExecuteDeliberation(ctx context.Context, request *pb.ExecuteDeliberationRequest) (*pb.ExecuteDeliberationResponse, error) {
	return rpc[*pb.ExecuteDeliberationResponse](ctx, s.f, request)
}

// GetDeliberationStatus answers an unknown id with OK and the status not_found:
// clients of the Python service expect no error.
func (s rpcs) GetDeliberationStatus(ctx context.Context, request *pb.GetDeliberationStatusRequest) (*pb.GetDeliberationStatusResponse, error) {
	return rpc[*pb.GetDeliberationStatusResponse](ctx, s.f, request)
}

// GetStatus returns health and statistics, also where include_stats is false: the
// Python service does so.
func (s rpcs) GetStatus(ctx context.Context, request *pb.GetStatusRequest) (*pb.GetStatusResponse, error) {
	return rpc[*pb.GetStatusResponse](ctx, s.f, request)
}

// GetActiveJobs lists what is queued or running, at most 1,000 of them.
func (s rpcs) GetActiveJobs(ctx context.Context, request *pb.GetActiveJobsRequest) (*pb.GetActiveJobsResponse, error) {
	return rpc[*pb.GetActiveJobsResponse](ctx, s.f, request)
}

// CancelDeliberation answers an unknown id with NOT_FOUND. A deliberation that had
// ended is OK: the reply's status is its end.
func (s rpcs) CancelDeliberation(ctx context.Context, request *pb.CancelDeliberationRequest) (*pb.CancelDeliberationResponse, error) {
	reply, err := rpc[*pb.CancelDeliberationResponse](ctx, s.f, request)
	if err != nil {
		return nil, err
	}
	return reply, rpcError(found(reply))
}

// ListDeliberations returns a page, newest first.
func (s rpcs) ListDeliberations(ctx context.Context, request *pb.ListDeliberationsRequest) (*pb.ListDeliberationsResponse, error) {
	return rpc[*pb.ListDeliberationsResponse](ctx, s.f, request)
}

// WatchDeliberation streams the events until the end. Watch calls send with nil
// first, and stream.Send(nil) sends the headers, so that a client knows at once
// that the id exists.
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

// rpc answers a call by the operation of its request. UNIMPLEMENTED: the setting
// FUNCTIONS leaves it out.
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

// rpcError converts an error by the table. The details are ray_executor.v1.Error,
// which has the field and the deliberation's id, and the standard ones that client
// libraries read: BadRequest, and RetryInfo for a retryable error. nil is nil.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	coded := deliberation.AsError(err)
	failure := connect.NewError(answers[coded.Code].rpc, errors.New(coded.Error()))
	details := []proto.Message{asMessage(coded)}
	if coded.Code == deliberation.Invalid {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: coded.Field, Description: coded.Message},
		}})
	}
	if retryable(coded.Code) {
		failure.Meta().Set("Retry-After", retryAfter(coded))
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(coded.RetryAfter)})
	}
	for _, one := range details {
		if detail, err := connect.NewErrorDetail(one); err == nil { // it fails for text that is not UTF-8
			failure.AddDetail(detail)
		}
	}
	return failure
}

// jsonCodec replaces connect-go's codec, which skips unknown fields and leaves out
// zero values: JSON has one form at every door.
type jsonCodec struct{ name string }

// Name is the codec's name in content types.
func (c jsonCodec) Name() string { return c.name }

// Marshal writes snake_case, zero values included.
func (jsonCodec) Marshal(message any) ([]byte, error) {
	return events.MarshalJSON(message.(proto.Message))
}

// Unmarshal refuses unknown fields: a misspelt one would be ignored.
func (jsonCodec) Unmarshal(data []byte, into any) error {
	return events.UnmarshalJSON(data, into.(proto.Message))
}

// protoCodec replaces connect-go's codec, whose decoder has no limit on elements.
type protoCodec struct{}

// Name is the codec's name in content types.
func (protoCodec) Name() string { return "proto" }

// Marshal writes protobuf.
func (protoCodec) Marshal(message any) ([]byte, error) { return proto.Marshal(message.(proto.Message)) }

// MarshalAppend appends protobuf to a buffer, which connect-go reuses.
func (protoCodec) MarshalAppend(before []byte, message any) ([]byte, error) {
	return proto.MarshalOptions{}.MarshalAppend(before, message.(proto.Message))
}

// Unmarshal refuses a message that would be much larger in memory than on the wire.
func (protoCodec) Unmarshal(data []byte, into any) error {
	return events.UnmarshalProto(data, into.(proto.Message))
}

// checker implements grpc.health.v1, as probes of Kubernetes and Knative ask it. Its
// answer is that of /health/readiness.
type checker struct{ f *Functions }

// Check returns SERVING once the journal has been reached. An empty name means the
// whole server.
func (c checker) Check(ctx context.Context, request *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	if request.Service != "" && !slices.Contains(rpcServices, request.Service) {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no such service: "+deliberation.Short(request.Service)))
	}
	status := grpchealth.StatusNotServing
	if c.f.Ready(ctx) == nil {
		status = grpchealth.StatusServing
	}
	return &grpchealth.CheckResponse{Status: status}, nil
}
