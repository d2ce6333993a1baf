package conformance_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	cepb "github.com/cloudevents/sdk-go/binding/format/protobuf/v2/pb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	pb "rayexecutor/proto/ray_executor/v1"
)

// An envelope is how an event travels over HTTP.
type envelope struct {
	wrap   func(e *sent) (http.Header, []byte, error)
	unwrap func(a *answer) (*received, error)
}

// sent is an event on its way there: its attributes, and its data in a codec.
type sent struct {
	codec           codec
	id, kind, trace string
	data            []byte
}

// received is an event that came back.
type received struct {
	attributes map[string]string
	data       []byte
}

// An eventDoor is a door that takes CloudEvents.
type eventDoor struct {
	title    string
	url      string
	codec    codec
	envelope envelope
	batch    bool
}

func (f *eventDoor) name() string { return f.title }

func (f *eventDoor) wire(_ proto.Message, code string, _ bool) string {
	switch code {
	case ok, notFound:
		return "200"
	case invalid, conflict, tooLarge:
		if f.batch { // the refusal has its place among the replies
			return "200"
		}
	}
	return map[string]string{
		invalid: "400", conflict: "422", tooLarge: "413", limitReached: "429", unavailable: "503",
	}[code]
}

var eventCount atomic.Int64

const eventSource = "/conformance"

func (f *eventDoor) call(ctx context.Context, c call) (*outcome, error) {
	data, err := f.codec.encode(c)
	if err != nil {
		return nil, err
	}
	id := c.id
	if id == "" {
		id = fmt.Sprintf("%s-%d", f.title, eventCount.Add(1))
	}
	header, body, err := f.envelope.wrap(&sent{codec: f.codec, id: id, kind: typeOf(c.request), trace: c.trace, data: data})
	if err != nil {
		return nil, err
	}
	a, err := send(ctx, http1, http.MethodPost, f.url, header, body)
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return a.refused()
	}
	reply, err := f.envelope.unwrap(a)
	if err != nil {
		return nil, err
	}
	return f.read(c, reply)
}

// read holds a reply against the contract: what it is an event of, whom it is
// about, and the request's traceparent and data content type.
func (f *eventDoor) read(c call, reply *received) (*outcome, error) {
	kind := reply.attributes["type"]
	if f.batch && kind == typeOf(&pb.Error{}) {
		refusal := new(pb.Error)
		if err := f.codec.unmarshal(reply.data, refusal); err != nil {
			return nil, err
		}
		o := refusedWith(refusal)
		o.wire = "200"
		return o, f.check(c, reply, o.id)
	}
	if want := typeOf(replyTo(c.request)); kind != want {
		return nil, fmt.Errorf("the reply is a %q, not a %s", kind, want)
	}
	o, err := f.codec.decode(reply.data, c.request)
	if err != nil {
		return nil, err
	}
	o.wire = "200"
	subject := ""
	if about, has := o.reply.(interface{ GetDeliberationId() string }); has {
		subject = about.GetDeliberationId()
	}
	return o, f.check(c, reply, subject)
}

func (f *eventDoor) check(c call, reply *received, subject string) error {
	for name, want := range map[string]string{
		"specversion": "1.0", "subject": subject, "traceparent": c.trace, "datacontenttype": f.codec.contentType,
	} {
		if got := reply.attributes[name]; got != want {
			return fmt.Errorf("the reply's %s is %q, not %q", name, got, want)
		}
	}
	if reply.attributes["id"] == "" || reply.attributes["source"] == "" || reply.attributes["source"] == eventSource {
		return fmt.Errorf("the reply's id and source are %q and %q", reply.attributes["id"], reply.attributes["source"])
	}
	return nil
}

// binary mode: HTTP binding 3.1.
var binaryMode = envelope{
	wrap: func(e *sent) (http.Header, []byte, error) {
		header := http.Header{
			"Content-Type": {e.codec.contentType}, "ce-specversion": {"1.0"}, "ce-id": {e.id}, "ce-source": {eventSource}, "ce-type": {e.kind},
		}
		if e.trace != "" {
			header["ce-traceparent"] = []string{e.trace}
		}
		return header, e.data, nil
	},
	unwrap: func(a *answer) (*received, error) {
		r := &received{map[string]string{"datacontenttype": a.header.Get("Content-Type")}, a.body}
		for _, name := range []string{"specversion", "id", "source", "type", "subject", "traceparent"} {
			r.attributes[name] = a.header.Get("ce-" + name)
		}
		return r, nil
	},
}

// structured mode in JSON: HTTP binding 3.2, JSON format 3.
var structuredJSON = envelope{
	wrap: func(e *sent) (http.Header, []byte, error) {
		event, err := json.Marshal(eventInJSON(e))
		return http.Header{"Content-Type": {"application/cloudevents+json; charset=utf-8"}}, event, err
	},
	unwrap: func(a *answer) (*received, error) {
		if err := wantType(a, "application/cloudevents+json"); err != nil {
			return nil, err
		}
		return eventOfJSON(a.body)
	},
}

// batched mode: HTTP binding 3.3, JSON format 4.
var batched = envelope{
	wrap: func(e *sent) (http.Header, []byte, error) {
		batch, err := json.Marshal([]any{eventInJSON(e)})
		return http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, batch, err
	},
	unwrap: func(a *answer) (*received, error) {
		if err := wantType(a, "application/cloudevents-batch+json"); err != nil {
			return nil, err
		}
		var batch []json.RawMessage
		if err := json.Unmarshal(a.body, &batch); err != nil || len(batch) != 1 {
			return nil, fmt.Errorf("a batch of one is answered by %d: %w", len(batch), err)
		}
		return eventOfJSON(batch[0])
	},
}

func wantType(a *answer, want string) error {
	if got := a.header.Get("Content-Type"); got != want {
		return fmt.Errorf("the answer is %q, not %q", got, want)
	}
	return nil
}

func eventInJSON(e *sent) map[string]any {
	event := map[string]any{
		"specversion": "1.0", "id": e.id, "source": eventSource, "type": e.kind, "datacontenttype": e.codec.contentType,
	}
	if e.trace != "" {
		event["traceparent"] = e.trace
	}
	if json.Valid(e.data) {
		event["data"] = json.RawMessage(e.data)
	} else {
		event["data_base64"] = e.data
	}
	return event
}

func eventOfJSON(data []byte) (*received, error) {
	var event map[string]json.RawMessage
	if err := json.Unmarshal(data, &event); err != nil {
		return nil, err
	}
	r := &received{attributes: make(map[string]string)}
	for name, raw := range event {
		switch name {
		case "data":
			r.data = raw
		case "data_base64":
			var text string
			if err := json.Unmarshal(raw, &text); err != nil {
				return nil, err
			}
			var err error
			if r.data, err = base64.StdEncoding.DecodeString(text); err != nil {
				return nil, err
			}
		default:
			var value string
			if err := json.Unmarshal(raw, &value); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			r.attributes[name] = value
		}
	}
	return r, nil
}

// structured mode in protobuf: the Protobuf format.
var structuredProtobuf = envelope{
	wrap: func(e *sent) (http.Header, []byte, error) {
		text := func(value string) *cepb.CloudEventAttributeValue {
			return &cepb.CloudEventAttributeValue{Attr: &cepb.CloudEventAttributeValue_CeString{CeString: value}}
		}
		event := &cepb.CloudEvent{
			Id: e.id, Source: eventSource, SpecVersion: "1.0", Type: e.kind,
			Attributes: map[string]*cepb.CloudEventAttributeValue{"datacontenttype": text(e.codec.contentType)},
			Data: &cepb.CloudEvent_ProtoData{ProtoData: &anypb.Any{
				TypeUrl: "type.googleapis.com/" + e.kind, Value: e.data,
			}},
		}
		if e.trace != "" {
			event.Attributes["traceparent"] = text(e.trace)
		}
		body, err := proto.Marshal(event)
		return http.Header{"Content-Type": {"application/cloudevents+protobuf"}}, body, err
	},
	unwrap: func(a *answer) (*received, error) {
		if err := wantType(a, "application/cloudevents+protobuf"); err != nil {
			return nil, err
		}
		event := new(cepb.CloudEvent)
		if err := proto.Unmarshal(a.body, event); err != nil {
			return nil, err
		}
		if event.GetProtoData().GetTypeUrl() != "type.googleapis.com/"+event.GetType() {
			return nil, errors.New("the reply's Any is a " + event.GetProtoData().GetTypeUrl() + ": " + protojson.Format(event))
		}
		r := &received{map[string]string{
			"id": event.GetId(), "source": event.GetSource(), "specversion": event.GetSpecVersion(), "type": event.GetType(),
		}, event.GetProtoData().GetValue()}
		for name, value := range event.GetAttributes() {
			r.attributes[name] = value.GetCeString()
		}
		return r, nil
	},
}

// eventDoors are the five ways of CloudEvents.
func eventDoors(url string) []door {
	return []door{
		&eventDoor{title: "binary JSON", url: url, codec: inJSON, envelope: binaryMode},
		&eventDoor{title: "binary protobuf", url: url, codec: inProtobuf, envelope: binaryMode},
		&eventDoor{title: "structured JSON", url: url, codec: inJSON, envelope: structuredJSON},
		&eventDoor{title: "structured protobuf", url: url, codec: inProtobuf, envelope: structuredProtobuf},
		&eventDoor{title: "batch", url: url, codec: inJSON, envelope: batched, batch: true},
	}
}
