package events

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	protobufformat "github.com/cloudevents/sdk-go/binding/format/protobuf/v2"
	cepb "github.com/cloudevents/sdk-go/binding/format/protobuf/v2/pb"
	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
)

// structured is a form in which an event travels whole, attributes and data.
type structured struct {
	media     string
	spare     func([]byte) int // for checkElements
	unmarshal func([]byte, *event.Event) error
	marshal   func(*event.Event) ([]byte, error)
}

var (
	jsonEnvelope = &structured{
		media:     event.ApplicationCloudEventsJSON,
		spare:     spareJSON,
		unmarshal: unmarshalJSONEvent,
		marshal:   func(e *event.Event) ([]byte, error) { return e.MarshalJSON() }, // json.Marshal would rewrite the data
	}
	protobufEnvelope = &structured{
		media:     protobufformat.ApplicationCloudEventsProtobuf,
		spare:     spareProto((*cepb.CloudEvent)(nil).ProtoReflect().Descriptor()),
		unmarshal: unmarshalProtobuf,
		marshal:   marshalProtobuf,
	}
)

// structuredAs returns the form of a media type, nil for any other.
func structuredAs(media string) *structured {
	for _, s := range []*structured{jsonEnvelope, protobufEnvelope} {
		if s.media == media {
			return s
		}
	}
	return nil
}

var errUnreadable = errors.New("it cannot be read")

// read reads an event. The SDK's readers panic on some malformed ones (JSON
// whose data_base64 is a number); that is an error here.
func (s *structured) read(data []byte) (e event.Event, err error) {
	defer func() {
		if recover() != nil {
			err = errUnreadable
		}
	}()
	if err := checkElements(data, s.spare); err != nil {
		return e, err
	}
	err = s.unmarshal(data, &e)
	return e, err
}

// unmarshalJSONEvent decodes an event; its error names the attribute at fault.
func unmarshalJSONEvent(data []byte, e *event.Event) error {
	err := json.Unmarshal(data, e)
	if err == nil {
		return nil
	}
	var attributes map[string]json.RawMessage
	if json.Unmarshal(data, &attributes) != nil {
		return err
	}
	return atFault(err, func(name string) error {
		value, given := attributes[name]
		if !given {
			return nil
		}
		alone := fmt.Appendf(nil, `{"specversion": "1.0", %q: %s}`, name, value)
		return json.Unmarshal(alone, new(event.Event))
	})
}

// unmarshalProtobuf reads text data as the bytes that it is: the SDK would
// write JSON text into JSON once more.
func unmarshalProtobuf(data []byte, e *event.Event) error {
	var envelope cepb.CloudEvent
	if err := proto.Unmarshal(data, &envelope); err != nil {
		return errUnreadable // the library varies its text on purpose
	}
	if text, ok := envelope.GetData().(*cepb.CloudEvent_TextData); ok {
		envelope.Data = &cepb.CloudEvent_BinaryData{BinaryData: []byte(text.TextData)}
	}
	read, err := protobufformat.FromProto(&envelope)
	if err != nil {
		return err
	}
	*e = *read
	return nil
}

// marshalProtobuf names the message that the data is, for receivers that
// unpack an Any: the SDK leaves the name out.
func marshalProtobuf(e *event.Event) ([]byte, error) {
	envelope, err := protobufformat.ToProto(e)
	if err != nil {
		return nil, fmt.Errorf("write an event: %w", err)
	}
	if data := envelope.GetProtoData(); data != nil {
		data.TypeUrl = "type.googleapis.com/" + e.Type()
	}
	return marshalProto(envelope)
}

// readBatch reads a JSON array of events, each on its own.
func readBatch(data []byte) ([]event.Event, error) {
	if length := lengthOfJSONList(data); length > MaxBatch {
		return nil, &deliberation.Error{
			Code: deliberation.TooLarge, Field: "request",
			Message: fmt.Sprintf("is a batch of %d events; at most %d are taken: send several batches", length, MaxBatch),
		}
	}
	var batch []json.RawMessage
	if err := json.Unmarshal(data, &batch); err != nil || batch == nil {
		return nil, deliberation.Invalidf("request", "is not a batch of CloudEvents: send a JSON array of them")
	}
	events := make([]event.Event, len(batch))
	for place, one := range batch {
		e, err := jsonEnvelope.read(one)
		if err == nil {
			err = e.Validate()
		}
		if err != nil {
			e = unreadable(one, place, err)
		}
		events[place] = e
	}
	return events, nil
}

// unreadable replaces an event of a batch that cannot be decoded, with those
// attributes that can, so that Validate rejects it. Without an id or a source the
// id is made of its bytes and its index, so that its reply has an id of its own.
func unreadable(data []byte, place int, cause error) event.Event {
	var attributes struct {
		ID              string `json:"id"`
		Source          string `json:"source"`
		DataContentType string `json:"datacontenttype"`
	}
	_ = json.Unmarshal(data, &attributes) // as far as it can be decoded
	e := event.New()
	e.SetSource(attributes.Source)
	e.SetID(attributes.ID)
	e.SetDataContentType(cmp.Or(attributes.DataContentType, JSON))
	if e.ID() == "" || e.Source() == "" {
		e.SetID(deliberation.Digest(string(data), strconv.Itoa(place)))
	}
	e.FieldErrors, _ = errors.AsType[event.ValidationError](cause)
	if e.FieldErrors == nil {
		e.FieldErrors = map[string]error{"event": cause}
	}
	return e
}

// writeBatch writes a JSON array of events, one at a time: together they may be
// large.
func writeBatch(w io.Writer, replies []event.Event) error {
	before := byte('[')
	for i := range replies {
		one, err := jsonEnvelope.marshal(&replies[i])
		if err != nil {
			return fmt.Errorf("write a batch of events: %w", err)
		}
		if _, err := w.Write(append([]byte{before}, one...)); err != nil {
			return err
		}
		before = ','
	}
	end := []byte{']'}
	if len(replies) == 0 {
		end = []byte("[]")
	}
	_, err := w.Write(end)
	return err
}
