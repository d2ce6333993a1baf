package conformance_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/sse"
)

// rest is the door of the JSON routes.
type rest struct{ url string }

func (f *rest) name() string { return "REST" }

func (f *rest) wire(request proto.Message, code string, isNew bool) string {
	if code == ok {
		if isNew {
			return "202"
		}
		return "200"
	}
	for status, known := range codes {
		if known == code {
			return strconv.Itoa(status)
		}
	}
	return "no status for " + method(request)
}

func (f *rest) call(ctx context.Context, c call) (*outcome, error) {
	header := http.Header{}
	if c.trace != "" {
		header.Set("Traceparent", c.trace)
	}
	if c.id != "" {
		header.Set("Idempotency-Key", c.id)
	}
	verb, path, body, err := f.route(c)
	if err != nil {
		return nil, err
	}
	if body != nil {
		header.Set("Content-Type", inJSON.contentType)
	}
	a, err := send(ctx, http1, verb, f.url+path, header, body)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK && a.status != http.StatusAccepted {
		return a.refused()
	}
	if err := wantType(a, inJSON.contentType); err != nil {
		return nil, err
	}
	o, err := inJSON.decode(a.body, c.request)
	if err != nil {
		return nil, err
	}
	o.wire, o.isNew = strconv.Itoa(a.status), a.status == http.StatusAccepted
	return o, nil
}

// route is where a request goes.
func (f *rest) route(c call) (verb, path string, body []byte, err error) {
	const root = "/v1/deliberations"
	switch request := c.request.(type) {
	case *pb.ExecuteDeliberationRequest:
		body, err = inJSON.encode(c)
		return http.MethodPost, root, body, err
	case *pb.GetDeliberationStatusRequest:
		return http.MethodGet, root + "/" + url.PathEscape(request.GetDeliberationId()), nil, nil
	case *pb.CancelDeliberationRequest:
		body, err = inJSON.marshal(&pb.CancelDeliberationRequest{Reason: request.GetReason()})
		return http.MethodPost, root + "/" + url.PathEscape(request.GetDeliberationId()) + ":cancel", body, err
	case *pb.ListDeliberationsRequest:
		return http.MethodGet, root + "?" + query(request), nil, nil
	case *pb.GetStatusRequest:
		return http.MethodGet, "/v1/stats", nil, nil
	case *pb.GetActiveJobsRequest:
		return http.MethodGet, "/v1/jobs", nil, nil
	default:
		return "", "", nil, fmt.Errorf("%s has no route", method(request))
	}
}

// query writes a message's fields as parameters.
func query(message proto.Message) string {
	values := make(url.Values)
	message.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if !field.IsList() {
			values.Set(string(field.Name()), value.String())
			return true
		}
		for i := range value.List().Len() {
			values.Add(string(field.Name()), value.List().Get(i).String())
		}
		return true
	})
	return values.Encode()
}

// watch reads server-sent events (HTML, 9.2): a sequence and a life-cycle
// message each.
func (f *rest) watch(ctx context.Context, request *pb.WatchDeliberationRequest, each func(*pb.WatchDeliberationResponse) bool) (*outcome, error) {
	sent, err := http.NewRequestWithContext(ctx, http.MethodGet,
		f.url+"/v1/deliberations/"+url.PathEscape(request.GetDeliberationId())+"/events", http.NoBody)
	if err != nil {
		return nil, err
	}
	sent.Header = http.Header{"Accept": {"text/event-stream"}}
	if after := request.GetAfterSequence(); after > 0 {
		sent.Header.Set("Last-Event-ID", strconv.FormatUint(after, 10))
	}
	response, err := http1.Do(sent)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusNoContent: // which tells an EventSource not to come again
		return &outcome{code: ok, wire: "200"}, nil
	case http.StatusOK:
		return &outcome{code: ok, wire: "200"}, readEvents(response.Body, each)
	default:
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return nil, err
		}
		return (&answer{response.StatusCode, response.Header, nil, body}).refused()
	}
}

func readEvents(stream io.Reader, each func(*pb.WatchDeliberationResponse) bool) error {
	for sent, err := range sse.Read(stream) {
		if err != nil {
			return err
		}
		if sent.Data == "" {
			continue
		}
		event, err := eventOf(sent)
		if err != nil || !each(event) {
			return err
		}
	}
	return nil
}

func eventOf(sent sse.Event) (*pb.WatchDeliberationResponse, error) {
	sequence, err := strconv.ParseUint(sent.ID, 10, 64)
	if err != nil {
		return nil, err
	}
	event := &pb.WatchDeliberationResponse{Sequence: sequence}
	oneof := event.ProtoReflect().Descriptor().Oneofs().ByName("event").Fields()
	for i := range oneof.Len() {
		if field := oneof.Get(i); string(field.Message().Name()) == sent.Name {
			return event, inJSON.unmarshal([]byte(sent.Data), event.ProtoReflect().Mutable(field).Message().Interface())
		}
	}
	return nil, fmt.Errorf("an event is named %q", sent.Name)
}
