package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	fleetpb "rayexecutor/proto/fleet/ray_executor/v1"
	pb "rayexecutor/proto/ray_executor/v1"
)

// What a call can come to, at any door.
const (
	ok           = "ok"
	invalid      = "invalid_argument"
	conflict     = "conflict"
	tooLarge     = "too_large"
	notFound     = "not_found"
	limitReached = "limit_reached"
	unavailable  = "unavailable"

	unauthenticated  = "unauthenticated"
	permissionDenied = "permission_denied"
)

// A call is a request and what travels with it.
type call struct {
	request proto.Message
	// id is the event's, on doors that have one. Empty: a fresh one.
	id string
	// trace is the caller's traceparent.
	trace string
	// broken sends bytes that are no message at all.
	broken bool
}

// An outcome is what a call came to, in words that no door owns.
type outcome struct {
	code string
	// wire is how the door said it: a status or a code of its own.
	wire string
	// field, id and detail are what a refusal carries.
	field, id, detail string
	// retryAfter is set where repeating helps.
	retryAfter string
	// isNew is whether a submit was new, if the door reports it.
	isNew bool
	// reply is the message, unless the call was refused.
	reply proto.Message
}

func (o *outcome) String() string {
	return fmt.Sprintf("%s (%s): field %q, deliberation %q, retry after %q: %s %v", o.code, o.wire, o.field, o.id, o.retryAfter, o.detail, o.reply)
}

// A door is one way in. It checks by itself that its answers have the form
// that its protocol wants: an error is an answer that has not.
type door interface {
	name() string
	call(ctx context.Context, c call) (*outcome, error)
	// wire is how the contract has the door say a code, for a request.
	wire(request proto.Message, code string, isNew bool) string
}

// replyTo returns the message that answers a request.
func replyTo(request proto.Message) proto.Message {
	name := request.ProtoReflect().Descriptor().FullName()
	base := name[:len(name)-len("Request")]
	if _, is := request.(*fleetpb.ExecuteBacklogReviewDeliberationRequest); is {
		return new(fleetpb.ExecuteDeliberationResponse)
	}
	reply, err := protoregistry.GlobalTypes.FindMessageByName(base + "Response")
	if err != nil {
		panic(err)
	}
	return reply.New().Interface()
}

func typeOf(message proto.Message) string {
	return string(message.ProtoReflect().Descriptor().FullName())
}

// method is the RPC of a request.
func method(request proto.Message) string {
	name := string(request.ProtoReflect().Descriptor().Name())
	return name[:len(name)-len("Request")]
}

// A codec is a data format.
type codec struct {
	contentType string
	marshal     func(proto.Message) ([]byte, error)
	unmarshal   func([]byte, proto.Message) error
	broken      []byte
}

var (
	inJSON = codec{
		"application/json",
		protojson.MarshalOptions{UseProtoNames: true}.Marshal, protojson.Unmarshal, []byte(`{"task_id": `),
	}
	inProtobuf = codec{
		"application/protobuf", proto.MarshalOptions{Deterministic: true}.Marshal, proto.Unmarshal, []byte{0x0a, 0xff, 0x01},
	}
)

func (c *codec) encode(one call) ([]byte, error) {
	if one.broken {
		return c.broken, nil
	}
	return c.marshal(one.request)
}

// decode reads a reply, and says of an unknown deliberation that it is.
func (c *codec) decode(data []byte, request proto.Message) (*outcome, error) {
	reply := replyTo(request)
	if err := c.unmarshal(data, reply); err != nil {
		return nil, fmt.Errorf("the reply is no %s: %w: %.200q", typeOf(reply), err, data)
	}
	return outcomeOf(reply), nil
}

func outcomeOf(reply proto.Message) *outcome {
	o := &outcome{code: ok, reply: reply}
	if about, has := reply.(interface{ GetStatus() string }); has && about.GetStatus() == notFound {
		o.code = notFound
	}
	return o
}

// An answer is an HTTP response that has been read.
type answer struct {
	status  int
	header  http.Header
	trailer http.Header
	body    []byte
}

var http1 = &http.Client{Timeout: 30 * time.Second, Transport: withKey{&http.Transport{MaxIdleConnsPerHost: 16}}}

func send(ctx context.Context, client *http.Client, verb, url string, header http.Header, body []byte) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, verb, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header = header
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return &answer{response.StatusCode, response.Header, response.Trailer, read}, nil
}

// codes is the contract's table, read from right to left.
var codes = map[int]string{
	http.StatusBadRequest: invalid, http.StatusUnprocessableEntity: conflict,
	http.StatusRequestEntityTooLarge: tooLarge, http.StatusNotFound: notFound,
	http.StatusUnauthorized: unauthenticated, http.StatusForbidden: permissionDenied,
	http.StatusTooManyRequests: limitReached, http.StatusServiceUnavailable: unavailable,
}

// refused reads a problem (RFC 9457): a documented status, the code that goes
// with it, and Retry-After where repeating helps and nowhere else.
func (a *answer) refused() (*outcome, error) {
	var problem struct {
		Title          string `json:"title"`
		Status         int    `json:"status"`
		Detail         string `json:"detail"`
		Code           string `json:"code"`
		Field          string `json:"field"`
		DeliberationID string `json:"deliberation_id"`
	}
	code, documented := codes[a.status]
	switch err := json.Unmarshal(a.body, &problem); {
	case !documented:
		return nil, fmt.Errorf("%d is not in the contract: %.300s", a.status, a.body)
	case err != nil || a.header.Get("Content-Type") != "application/problem+json":
		return nil, fmt.Errorf("%d is answered with %q, not as a problem: %.300s", a.status, a.header.Get("Content-Type"), a.body)
	case problem.Status != a.status || problem.Code != code || problem.Title == "" || problem.Detail == "":
		return nil, fmt.Errorf("%d is answered with %+v", a.status, problem)
	}
	return &outcome{
		code: code, wire: strconv.Itoa(a.status), field: problem.Field, id: problem.DeliberationID,
		detail: problem.Detail, retryAfter: a.header.Get("Retry-After"),
	}, nil
}

// refusedWith tells a refusal that is a message.
func refusedWith(e *pb.Error) *outcome {
	return &outcome{code: e.GetCode(), field: e.GetField(), id: e.GetDeliberationId(), detail: e.GetMessage()}
}
