package events

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"

	"rayexecutor/deliberation"
)

// Mode is how events travel over HTTP; a reply travels as its request did.
type Mode struct {
	structured *structured // nil in binary and batch mode
	batch      bool
}

// IsBatch reports whether several events travel at once.
func (m Mode) IsBatch() bool { return m.batch }

// MaxBatch bounds the events of one batch.
const MaxBatch = 1000

const batchType = event.ApplicationCloudEventsBatchJSON

// FromRequest reads the events of an HTTP request in binary, structured or
// batch mode. The error is deliberation.Invalid or TooLarge. In a batch it
// concerns the batch as a whole; an event in it that cannot be decoded
// is replaced by one that Validate rejects, at the same index.
func FromRequest(r *http.Request) (events []event.Event, mode Mode, err error) {
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // what cannot be parsed is no envelope
	if media != batchType && structuredAs(media) == nil {
		one, err := readBinary(r)
		return []event.Event{one}, Mode{}, err
	}
	mode = Mode{structured: structuredAs(media), batch: media == batchType}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, mode, readError(err)
	}
	if mode.batch {
		events, err = readBatch(body)
		return events, mode, err
	}
	one, err := mode.structured.read(body)
	if err != nil {
		return nil, mode, readError(err)
	}
	return []event.Event{one}, mode, nil
}

// readBinary reads an event whose attributes are headers and whose data is the
// body.
func readBinary(r *http.Request) (event.Event, error) {
	message := cehttp.NewMessage(attributes(r.Header), r.Body)
	if message.ReadEncoding() != binding.EncodingBinary {
		return event.Event{}, deliberation.Invalidf("request", "is not a CloudEvent: send the headers ce-specversion (1.0), ce-id, ce-source and ce-type, or a body of %s, %s or %s", event.ApplicationCloudEventsJSON, protobufEnvelope.media, batchType)
	}
	one, err := binding.ToEvent(r.Context(), message)
	if err != nil {
		return event.Event{}, readError(atFault(err, func(name string) error { return readAlone(r, name) }))
	}
	return *one, nil
}

// readAlone reads one attribute of a binary event.
func readAlone(r *http.Request, name string) error {
	header := attributes(r.Header)
	key := http.CanonicalHeaderKey("ce-" + name)
	value, given := header[key]
	if !given {
		return nil
	}
	_, err := binding.ToEvent(r.Context(), cehttp.NewMessage(
		http.Header{"Ce-Specversion": header["Ce-Specversion"], key: value}, http.NoBody))
	return err
}

// atFault finds the attribute that made an event undecodable, which the SDK does not
// report. read decodes one attribute alone. Without such an attribute err is
// returned as it is.
func atFault(err error, read func(name string) error) error {
	for _, name := range []string{"id", "source", "type", "time", "subject", "dataschema", "datacontenttype"} {
		if cause := read(name); cause != nil {
			return event.ValidationError{name: cause}
		}
	}
	return err
}

// attributes returns the headers that make up an event, decoded.
func attributes(header http.Header) http.Header {
	event := make(http.Header, 8)
	for name, values := range header {
		switch {
		case len(values) == 0:
		case name == "Content-Type":
			event[name] = values[:1]
		case strings.HasPrefix(name, "Ce-") && len(name) > len("Ce-"):
			event[name] = []string{decodeHeader(values[0])}
		}
	}
	return event
}

// readError is an error of reading a body; what refused it may have said so.
func readError(err error) error {
	if coded, ok := errors.AsType[*deliberation.Error](err); ok {
		return coded
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &deliberation.Error{
			Code: deliberation.TooLarge, Field: "request",
			Message: "the body is too large: send at most 1 MiB an event, and fewer events a batch", Cause: err,
		}
	}
	return invalid("request", err)
}

// Validate holds an event against the CloudEvents specification.
func Validate(e *event.Event) error {
	if err := e.Validate(); err != nil {
		return invalid("event", err)
	}
	return nil
}

// invalid says why an event cannot be taken, by its first attribute at fault
// where that is known.
func invalid(field string, err error) error {
	if attributes, ok := errors.AsType[event.ValidationError](err); ok && len(attributes) > 0 {
		field = slices.Min(slices.Collect(maps.Keys(attributes)))
		err = attributes[field]
	}
	return deliberation.Invalidf(field, "is not as CloudEvents 1.0 has it: %s", err)
}

// WriteReplies writes replies as an HTTP answer, in the mode of their request.
func WriteReplies(w http.ResponseWriter, mode Mode, replies []event.Event) error {
	switch {
	case mode.batch:
		w.Header().Set("Content-Type", batchType)
		return writeBatch(w, replies)
	case mode.structured != nil:
		body, err := mode.structured.marshal(&replies[0])
		if err != nil {
			return err
		}
		return writeBody(w, mode.structured.media, body)
	default:
		return writeBinary(w, &replies[0])
	}
}

func writeBinary(w http.ResponseWriter, e *event.Event) error {
	setAttributes(w.Header(), e)
	return writeBody(w, e.DataContentType(), e.Data())
}

// NewRequest makes the request that posts an event, in binary mode.
func NewRequest(ctx context.Context, url string, e *event.Event) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(e.Data()))
	if err != nil {
		return nil, err
	}
	setAttributes(request.Header, e)
	request.Header.Set("Content-Type", e.DataContentType())
	return request, nil
}

// setAttributes writes an event's attributes as headers.
func setAttributes(header http.Header, e *event.Event) {
	set := func(name, value string) {
		if value != "" {
			header.Set("Ce-"+name, encodeHeader(value))
		}
	}
	set("Specversion", e.SpecVersion())
	set("Id", e.ID())
	set("Type", e.Type())
	set("Source", e.Source())
	set("Subject", e.Subject())
	set("Time", types.FormatTime(e.Time()))
	for name, value := range e.Extensions() {
		if text, ok := value.(string); ok {
			set(name, text)
		}
	}
}

func writeBody(w http.ResponseWriter, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	_, err := w.Write(body)
	return err
}
