package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Media types of an event's data.
const (
	Protobuf = "application/protobuf"
	JSON     = "application/json"
)

// Source is the `source` of every event that the functions write.
const Source = "/ray-executor"

// TraceParent is the extension that carries the W3C trace context.
const TraceParent = "traceparent"

// Type returns the event type of a message, which is its full name.
func Type(message proto.Message) string {
	return string(message.ProtoReflect().Descriptor().FullName())
}

// Decode reads an event's data into a message, as its data content type says;
// no data is the empty message. The error is deliberation.Invalid or TooLarge:
// the limit is the message's, so that it is the same in JSON and in protobuf.
func Decode(e *event.Event, into proto.Message) error {
	data := e.Data()
	contentType, err := dataContentType(e)
	if err != nil || len(data) == 0 {
		return err
	}
	if contentType == JSON {
		if bytes.Equal(data, []byte("null")) { // how structured JSON can say that there is none
			return nil
		}
		if err := UnmarshalJSON(data, into); err != nil {
			return err
		}
		return checkSize(proto.Size(into))
	}
	if err := checkSize(len(data)); err != nil {
		return err
	}
	return UnmarshalProto(data, into)
}

// UnmarshalProto reads protobuf. The error is deliberation.Invalid, or TooLarge
// where the payload holds more than any request may.
func UnmarshalProto(data []byte, into proto.Message) error {
	if err := checkElements(data, spareProto(into.ProtoReflect().Descriptor())); err != nil {
		return err
	}
	if err := proto.Unmarshal(data, into); err != nil {
		return deliberation.Invalidf("data", "is not a %s in protobuf", Type(into))
	}
	return nil
}

func checkSize(bytes int) error {
	if bytes <= deliberation.MaxRequestBytes {
		return nil
	}
	return &deliberation.Error{
		Code: deliberation.TooLarge, Field: "data",
		Message: "is above 1 MiB: shorten the description, the templates or the metadata",
	}
}

// dataContentType returns JSON or Protobuf. CloudEvents reads an absent one as
// JSON.
func dataContentType(e *event.Event) (string, error) {
	declared := e.DataContentType()
	if declared == "" {
		return JSON, nil
	}
	media, _, err := mime.ParseMediaType(declared)
	if err == nil && (media == JSON || media == Protobuf) {
		return media, nil
	}
	return "", deliberation.Invalidf("datacontenttype", "%q is not read: send %s or %s", deliberation.Short(declared), Protobuf, JSON)
}

// UnmarshalJSON reads proto3 JSON, names in snake_case or lowerCamelCase. A
// field that the message does not have is an error: a misspelt one must not
// pass silently. The error is as UnmarshalProto's.
func UnmarshalJSON(data []byte, into proto.Message) error {
	if err := checkElements(data, spareJSON); err != nil {
		return err
	}
	if err := protojson.Unmarshal(data, into); err != nil {
		// The library varies the spaces of its messages on purpose, and repeats
		// a field's name whole.
		said := deliberation.Shorten(err.Error(), 256)
		text := strings.Join(strings.Fields(strings.TrimPrefix(said, "proto:")), " ")
		return deliberation.Invalidf("data", "is not a %s in JSON: %s", Type(into), strings.TrimPrefix(text, "proto: "))
	}
	return nil
}

// MarshalJSON writes proto3 JSON in snake_case, zero values included: a count
// of 0 is visible. The library varies its spaces on purpose; they are removed, so
// that the same message has the same bytes.
//
// A status without rounds has no `rounds`: callers of the four old RPCs that refuse
// unknown fields see none.
func MarshalJSON(message proto.Message) ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(message)
	if err != nil {
		return nil, fmt.Errorf("write a %s as JSON: %w", Type(message), err)
	}
	var compact bytes.Buffer
	compact.Grow(len(data))
	if err := json.Compact(&compact, data); err != nil {
		return nil, fmt.Errorf("write a %s as JSON: %w", Type(message), err)
	}
	if status, ok := message.(*pb.GetDeliberationStatusResponse); ok && len(status.GetRounds()) == 0 {
		const none = `,"rounds":[]` // in a text the quotes would have backslashes
		before, after, _ := bytes.Cut(compact.Bytes(), []byte(none))
		return append(before, after...), nil
	}
	return compact.Bytes(), nil
}

// marshalProto writes the same bytes for the same message, maps too.
func marshalProto(message proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(message)
}

// TraceOf returns an event's traceparent, empty where it has none.
func TraceOf(e *event.Event) string {
	trace, _ := e.Extensions()[TraceParent].(string)
	return validTrace(trace)
}

// validTrace returns what can be a traceparent, in this or a later version of
// the W3C's text: letters, digits and hyphens, at most 128. Anything else is no
// trace context, and stays out of headers.
func validTrace(trace string) string {
	if len(trace) > 128 || strings.ContainsFunc(trace, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return ""
	}
	return trace
}

// Reply returns the event that answers a request with a message: same data
// content type and traceparent, and an id that follows from the request's, so
// that it is the same when the request is sent again.
func Reply(request *event.Event, message proto.Message, subject string) (*event.Event, error) {
	reply := event.New()
	reply.SetType(Type(message))
	reply.SetSource(Source)
	reply.SetID(deliberation.Digest(request.Source(), request.ID(), reply.Type()))
	reply.SetTime(time.Now().UTC())
	if subject != "" {
		reply.SetSubject(subject)
	}
	if trace := TraceOf(request); trace != "" {
		reply.SetExtension(TraceParent, trace)
	}
	contentType, err := dataContentType(request)
	if err != nil {
		contentType = JSON // a refusal of just that
	}
	data, err := marshal(message, contentType)
	if err != nil {
		return nil, err
	}
	reply.SetDataContentType(contentType)
	reply.DataEncoded = data
	reply.DataBase64 = contentType == Protobuf
	return &reply, nil
}

func marshal(message proto.Message, contentType string) ([]byte, error) {
	if contentType == JSON {
		return MarshalJSON(message)
	}
	return marshalProto(message)
}
