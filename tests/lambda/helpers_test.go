// Package lambda_test drives the bootstrap that `make lambda` builds the way
// AWS Lambda does, against a real NATS.
package lambda_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

// setup starts a NATS with the journal.
func setup(tb testing.TB) *system.System {
	tb.Helper()
	sys := system.Make(tb, system.Options{})
	if err := sys.StartJournal(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return sys
}

// function is a launched function with the calls that the tests make.
type function struct {
	tb testing.TB
	emulator
}

func launched(tb testing.TB, environ []string) function {
	tb.Helper()
	return function{tb: tb, emulator: launch(tb, environ)}
}

// call invokes with a payload and reads the answer; failure is the function's
// error.
func (f function) call(payload, into any) (failure string) {
	f.tb.Helper()
	data, err := json.Marshal(payload)
	if err != nil {
		f.tb.Fatal(err)
	}
	answer, err := f.invoke(f.tb.Context(), data)
	if err != nil {
		f.tb.Fatalf("%v\n%s", err, f.log())
	}
	var failed struct {
		Message string `json:"errorMessage"` //nolint:tagliatelle // as AWS spells it
	}
	if json.Unmarshal(answer, &failed) == nil && failed.Message != "" {
		return failed.Message
	}
	if err := json.Unmarshal(answer, into); err != nil {
		f.tb.Fatalf("%v: %s\n%s", err, answer, f.log())
	}
	return ""
}

// http invokes with an HTTP request.
func (f function) http(request events.APIGatewayV2HTTPRequest) events.LambdaFunctionURLResponse {
	f.tb.Helper()
	var response events.LambdaFunctionURLResponse
	if failure := f.call(request, &response); failure != "" {
		f.tb.Fatal(failure)
	}
	return response
}

// batch invokes with messages of a queue and returns which failed.
func (f function) batch(messages ...events.SQSMessage) []string {
	f.tb.Helper()
	var response events.SQSEventResponse
	if failure := f.call(events.SQSEvent{Records: messages}, &response); failure != "" {
		f.tb.Fatal(failure)
	}
	failed := []string{}
	for _, failure := range response.BatchItemFailures {
		failed = append(failed, failure.ItemIdentifier)
	}
	return failed
}

// status asks where a deliberation stands, over a Function URL.
func (f function) status(id string) string {
	f.tb.Helper()
	response := f.http(functionURL("status-"+id, &pb.GetDeliberationStatusRequest{DeliberationId: id}))
	var status pb.GetDeliberationStatusResponse
	if err := protojson.Unmarshal([]byte(response.Body), &status); err != nil {
		f.tb.Fatalf("%v: %+v", err, response)
	}
	return status.GetStatus()
}

// request is one that is accepted.
func request(id string) *pb.ExecuteDeliberationRequest {
	return &pb.ExecuteDeliberationRequest{
		TaskId: "task", TaskDescription: "description", Role: "DEV", DeliberationId: id,
		Agents: []*pb.Agent{{Id: "a"}},
	}
}

func jsonOf(message proto.Message) json.RawMessage {
	data, err := protojson.Marshal(message)
	if err != nil {
		panic(err)
	}
	return data
}

func typeOf(message proto.Message) string {
	return string(message.ProtoReflect().Descriptor().FullName())
}

// functionURL is a binary CloudEvent with JSON data as a Function URL hands it
// on.
func functionURL(id string, message proto.Message) events.APIGatewayV2HTTPRequest {
	return events.APIGatewayV2HTTPRequest{
		Version: "2.0", RouteKey: "$default", RawPath: "/",
		Headers: map[string]string{
			"content-type": "application/json", "host": "abc.lambda-url.eu-west-1.on.aws",
			"ce-specversion": "1.0", "ce-id": id, "ce-source": "/tests", "ce-type": typeOf(message),
		},
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			Stage: "$default", DomainName: "abc.lambda-url.eu-west-1.on.aws",
			HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: "POST", Path: "/", SourceIP: "192.0.2.1"},
		},
		Body: string(jsonOf(message)),
	}
}

// inProtobuf is the same event with protobuf data.
func inProtobuf(from events.APIGatewayV2HTTPRequest, message proto.Message) events.APIGatewayV2HTTPRequest {
	data, err := proto.Marshal(message)
	if err != nil {
		panic(err)
	}
	from.Headers = maps.Clone(from.Headers)
	from.Headers["content-type"] = "application/protobuf"
	from.Body, from.IsBase64Encoded = base64.StdEncoding.EncodeToString(data), true
	return from
}

// cloudEvent is an event in structured JSON.
func cloudEvent(id string, message proto.Message) map[string]any {
	return map[string]any{
		"specversion": "1.0", "id": id, "source": "/tests", "type": typeOf(message),
		"datacontenttype": "application/json", "data": jsonOf(message),
	}
}

// eventBridge is an event of EventBridge.
func eventBridge(id, detailType string, detail any) map[string]any {
	return map[string]any{
		"version": "0", "id": id, "detail-type": detailType, "source": "tests.orchestrator", "account": "123456789012",
		"time": "2026-01-01T00:00:00Z", "region": "eu-west-1", "resources": []string{}, "detail": detail,
	}
}

// message is a message of an SQS queue.
func message(id string, body any) events.SQSMessage {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return events.SQSMessage{
		MessageId: id, Body: string(data), EventSource: "aws:sqs",
		EventSourceARN: "arn:aws:sqs:eu-west-1:123456789012:deliberations",
		Attributes:     map[string]string{"ApproximateReceiveCount": "1"},
	}
}
