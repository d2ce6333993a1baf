package lambda_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

func TestLambda(t *testing.T) {
	t.Parallel()
	everyInvocation(t, launched(t, setup(t).Environ()))
}

// TestRPCEntry is the same through aws-lambda-go's entry for local runs.
func TestRPCEntry(t *testing.T) {
	t.Parallel()
	everyInvocation(t, function{tb: t, emulator: launchRPC(t, setup(t).Environ())})
}

func everyInvocation(t *testing.T, f function) {
	t.Helper()
	// One instance answers one invocation at a time, so these take turns.
	t.Run("Function URL in JSON", func(t *testing.T) { functionURLInJSON(t, f) })
	t.Run("Function URL in protobuf", func(t *testing.T) { functionURLInProtobuf(t, f) })
	t.Run("API Gateway", func(t *testing.T) { apiGateway(t, f) })
	t.Run("REST", func(t *testing.T) { overREST(t, f) })
	t.Run("Connect", func(t *testing.T) { overConnect(t, f) })
	t.Run("EventBridge", func(t *testing.T) { fromEventBridge(t, f) })
	t.Run("SQS", func(t *testing.T) { fromSQS(t, f) })
	t.Run("redelivery", func(t *testing.T) { redelivery(t, f) })
	t.Run("a bare CloudEvent", func(t *testing.T) { bareCloudEvent(t, f) })
	t.Run("nothing that is known", func(t *testing.T) { unknownInvocation(t, f) })
}

func functionURLInJSON(t *testing.T, f function) {
	response := f.http(functionURL("1", request("json")))
	var receipt struct {
		DeliberationID string `json:"deliberation_id"`
		Status         string `json:"status"`
	}
	if err := json.Unmarshal([]byte(response.Body), &receipt); err != nil || response.IsBase64Encoded {
		t.Fatalf("%v: %+v", err, response)
	}
	if response.StatusCode != http.StatusOK || receipt.DeliberationID != "json" || receipt.Status != "submitted" ||
		response.Headers["Ce-Type"] != "ray_executor.v1.ExecuteDeliberationResponse" {
		t.Errorf("submit answers %+v", response)
	}
	if status := f.status("json"); status != "queued" {
		t.Errorf("it is %s", status)
	}
	refusal := f.http(functionURL("2", &pb.ExecuteDeliberationRequest{}))
	if refusal.StatusCode != http.StatusBadRequest || !strings.Contains(refusal.Body, `"field":`) ||
		refusal.Headers["Content-Type"] != "application/problem+json" {
		t.Errorf("a request without a task answers %+v", refusal)
	}
}

func functionURLInProtobuf(t *testing.T, f function) {
	ask := func(id string, message, reply proto.Message) {
		response := f.http(inProtobuf(functionURL(id, message), message))
		body, err := base64.StdEncoding.DecodeString(response.Body)
		if err != nil || !response.IsBase64Encoded || response.Headers["Content-Type"] != "application/protobuf" {
			t.Fatalf("%v: %+v", err, response)
		}
		if err := proto.Unmarshal(body, reply); err != nil {
			t.Fatal(err)
		}
	}
	var receipt pb.ExecuteDeliberationResponse
	ask("3", request("protobuf"), &receipt)
	var status pb.GetDeliberationStatusResponse
	ask("4", &pb.GetDeliberationStatusRequest{DeliberationId: "protobuf"}, &status)
	if receipt.GetDeliberationId() != "protobuf" || status.GetStatus() != "queued" {
		t.Errorf("submit answers %v, status %v", &receipt, &status)
	}
}

// apiGateway calls below a stage, which the path then starts with.
func apiGateway(t *testing.T, f function) {
	event := functionURL("5", request("gateway"))
	event.RawPath, event.RequestContext.Stage = "/prod/", "prod"
	if response := f.http(event); response.StatusCode != http.StatusOK {
		t.Errorf("submit answers %+v", response)
	}
	if status := f.status("gateway"); status != "queued" {
		t.Errorf("it is %s", status)
	}
	probe := events.APIGatewayV2HTTPRequest{Version: "2.0", RawPath: "/prod/health/readiness"}
	probe.RequestContext.Stage, probe.RequestContext.HTTP.Method = "prod", "GET"
	if response := f.http(probe); response.StatusCode != http.StatusOK {
		t.Errorf("readiness answers %+v", response)
	}
	probe.RawPath = "/prod/nowhere"
	if response := f.http(probe); response.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown path answers %+v", response)
	}
}

// plain is an HTTP request without a CloudEvent, below a stage.
func plain(method, path string, message proto.Message) events.APIGatewayV2HTTPRequest {
	request := events.APIGatewayV2HTTPRequest{Version: "2.0", RawPath: "/prod" + path, Headers: map[string]string{}}
	request.RequestContext.Stage, request.RequestContext.HTTP.Method = "prod", method
	if message != nil {
		request.Headers["content-type"], request.Body = "application/json", string(jsonOf(message))
	}
	return request
}

func overREST(t *testing.T, f function) {
	if response := f.http(plain("POST", "/v1/deliberations", request("rest"))); response.StatusCode != http.StatusAccepted {
		t.Errorf("submit answers %+v", response)
	}
	response := f.http(plain("GET", "/v1/deliberations/rest", nil))
	if response.StatusCode != http.StatusOK || response.IsBase64Encoded || !strings.Contains(response.Body, `"queued"`) {
		t.Errorf("status answers %+v", response)
	}
	response = f.http(plain("POST", "/v1/deliberations/rest:cancel", &pb.CancelDeliberationRequest{Reason: "enough"}))
	if response.StatusCode != http.StatusOK || !strings.Contains(response.Body, `"cancelled"`) {
		t.Errorf("cancel answers %+v", response)
	}
	if response := f.http(plain("GET", "/v1/deliberations/nobody", nil)); response.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown one answers %+v", response)
	}
	// It has ended, so the stream of its events does too, and is sent whole.
	response = f.http(plain("GET", "/v1/deliberations/rest/events", nil))
	if response.StatusCode != http.StatusOK || !strings.Contains(response.Body, "DeliberationCancelled") {
		t.Errorf("events answer %+v", response)
	}
}

func overConnect(t *testing.T, f function) {
	const method = "/ray_executor.v1.RayExecutorService/GetDeliberationStatus"
	ask := &pb.GetDeliberationStatusRequest{DeliberationId: "json"}
	response := f.http(plain("POST", method, ask))
	if response.StatusCode != http.StatusOK || !strings.Contains(response.Body, `"queued"`) {
		t.Errorf("status answers %+v", response)
	}
	binary := inProtobuf(plain("POST", method, ask), ask)
	binary.Headers["content-type"] = "application/proto"
	if response := f.http(binary); response.StatusCode != http.StatusOK || !response.IsBase64Encoded {
		t.Errorf("status in protobuf answers %+v", response)
	}
}

type reply struct {
	Type    string `json:"type"`
	Subject string `json:"subject"`
	Data    struct {
		Status string `json:"status"`
	} `json:"data"`
}

func fromEventBridge(t *testing.T, f function) {
	var answer reply
	if failure := f.call(eventBridge("bridge-1", typeOf(request("")), jsonOf(request("bridged"))), &answer); failure != "" {
		t.Fatal(failure)
	}
	if answer.Type != "ray_executor.v1.ExecuteDeliberationResponse" || answer.Subject != "bridged" || answer.Data.Status != "submitted" {
		t.Errorf("it answers %+v", answer)
	}
	answer = reply{}
	if failure := f.call(eventBridge("bridge-2", "anything", cloudEvent("6", request("within"))), &answer); failure != "" || answer.Subject != "within" {
		t.Errorf("a CloudEvent as detail answers %q, %+v", failure, answer)
	}
	failure := f.call(eventBridge("bridge-3", typeOf(request("")), map[string]any{"task_id": ""}), &answer)
	if !strings.HasPrefix(failure, "400 Bad Request: ") {
		t.Errorf("a bad one fails with %q", failure)
	}
}

func fromSQS(t *testing.T, f function) {
	failed := f.batch(
		message("good", cloudEvent("7", request("queued"))),
		message("bad", cloudEvent("8", &pb.ExecuteDeliberationRequest{TaskId: "t"})),
		message("no event", "hello"),
		message("bridged", eventBridge("bridge-4", typeOf(request("")), jsonOf(request("queued-bridged")))),
	)
	if want := []string{"bad", "no event"}; !slices.Equal(failed, want) {
		t.Errorf("failed: %v, want %v", failed, want)
	}
	for _, id := range []string{"queued", "queued-bridged"} {
		if status := f.status(id); status != "queued" {
			t.Errorf("%s is %s", id, status)
		}
	}
	f.log().Wait(t, `"message":"bad"`, `"retryable":false`)
}

// redelivery sends what names no id, twice: whether by queue or bus, the same
// event is the same deliberation.
func redelivery(t *testing.T, f function) {
	total := func() int {
		response := f.http(functionURL("stats", &pb.GetStatusRequest{IncludeStats: true}))
		var status struct {
			Stats struct {
				Total string `json:"total_deliberations"`
			} `json:"stats"`
		}
		if err := json.Unmarshal([]byte(response.Body), &status); err != nil {
			t.Fatalf("%v: %+v", err, response)
		}
		count, err := strconv.Atoi(status.Stats.Total)
		if err != nil {
			t.Fatalf("%v: %+v", err, response)
		}
		return count
	}
	event := eventBridge("bridge-5", typeOf(request("")), jsonOf(request("")))
	var first, second reply
	if failure := f.call(event, &first); failure != "" {
		t.Fatal(failure)
	}
	before := total()
	if failure := f.call(event, &second); failure != "" || second.Subject != first.Subject || first.Subject == "" {
		t.Errorf("first %+v, again %q %+v", first, failure, second)
	}
	if failed := f.batch(message("1", event), message("2", event)); len(failed) != 0 {
		t.Errorf("failed: %v", failed)
	}
	if after := total(); after != before {
		t.Errorf("there are more deliberations than before: %d, %d", before, after)
	}
}

func bareCloudEvent(t *testing.T, f function) {
	var answer reply
	if failure := f.call(cloudEvent("9", request("bare")), &answer); failure != "" || answer.Subject != "bare" {
		t.Errorf("it answers %q, %+v", failure, answer)
	}
}

func unknownInvocation(t *testing.T, f function) {
	for _, payload := range []any{map[string]string{"hello": "world"}, "hello", []int{1}, map[string]any{"Records": []any{map[string]string{"EventSource": "aws:sns"}}}} {
		if failure := f.call(payload, new(any)); !strings.Contains(failure, "send an HTTP request") {
			t.Errorf("%v fails with %q", payload, failure)
		}
	}
}

// TestNATSAway hands over a batch while NATS is down, and again when it is
// back: nothing is lost, and nothing is taken twice.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	if err := sys.StopNATS(); err != nil {
		t.Fatal(err)
	}
	f := launched(t, sys.Environ())
	messages := []events.SQSMessage{
		message("1", cloudEvent("1", request("first"))), message("2", cloudEvent("2", request("second"))),
	}
	if failed := f.batch(messages...); !slices.Equal(failed, []string{"1", "2"}) {
		t.Errorf("failed: %v", failed)
	}
	f.log().Wait(t, `"retryable":true`)
	response := f.http(functionURL("3", request("third")))
	if response.StatusCode != http.StatusServiceUnavailable || response.Headers["Retry-After"] == "" || !strings.Contains(response.Body, "NATS") {
		t.Errorf("over HTTP it answers %+v", response)
	}
	if err := sys.StartNATS(t.Context()); err != nil {
		t.Fatal(err)
	}
	await.NoError(t, "the redelivered batch", func() error { // the client reconnects in its own time
		if failed := f.batch(messages...); len(failed) != 0 {
			return fmt.Errorf("failed after NATS came back: %v\n%s", failed, f.log())
		}
		return nil
	})
}
