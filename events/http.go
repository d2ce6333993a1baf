package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	// Registers application/cloudevents+protobuf.
	_ "github.com/cloudevents/sdk-go/binding/format/protobuf/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/binding/format"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"rayexecutor/deliberation"
)

// Mode is how events travel over HTTP; a reply travels as its request did.
type Mode struct {
	structured format.Format // nil in binary mode
	batch      bool
}

// IsBatch reports whether several events travel at once.
func (m Mode) IsBatch() bool { return m.batch }

// FromRequest reads the events of an HTTP request in binary, structured or
// batch mode. The error is deliberation.Invalid or TooLarge; in a batch it
// concerns the batch as a whole, what is amiss with one event is for Validate.
func FromRequest(r *http.Request) ([]event.Event, Mode, error) {
	if cehttp.IsHTTPBatch(r.Header) {
		events, err := readBatch(r.Body)
		return events, Mode{batch: true}, err
	}
	message := cehttp.NewMessageFromHttpRequest(r)
	mode := Mode{}
	switch message.ReadEncoding() {
	case binding.EncodingBinary:
	case binding.EncodingStructured:
		mode.structured = format.Lookup(r.Header.Get("Content-Type"))
	default:
		return nil, mode, deliberation.Invalidf("request", "is not a CloudEvent: send the ce-id, ce-source, ce-specversion and ce-type headers, or a body of application/cloudevents+json")
	}
	one, err := binding.ToEvent(r.Context(), message)
	if err != nil {
		return nil, mode, readError(err)
	}
	return []event.Event{*one}, mode, nil
}

func readBatch(body io.Reader) ([]event.Event, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, readError(err)
	}
	var events []event.Event
	if err := json.Unmarshal(data, &events); err != nil {
		return nil, readError(err)
	}
	return events, nil
}

func readError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &deliberation.Error{
			Code: deliberation.TooLarge, Field: "request",
			Message: "the body is too large: send at most 1 MiB an event, and fewer events a batch", Cause: err,
		}
	}
	return deliberation.Invalidf("request", "is not a readable CloudEvent: %s", err)
}

// Validate holds an event against the CloudEvents specification.
func Validate(e *event.Event) error {
	if err := e.Validate(); err != nil {
		return deliberation.Invalidf("event", "is not a valid CloudEvent: %s", err)
	}
	return nil
}

// WriteReplies writes replies as an HTTP answer, in the mode of their request.
func WriteReplies(ctx context.Context, w http.ResponseWriter, mode Mode, replies []event.Event) error {
	if mode.batch {
		body, err := json.Marshal(replies)
		if err != nil {
			return fmt.Errorf("write a batch of events: %w", err)
		}
		w.Header().Set("Content-Type", event.ApplicationCloudEventsBatchJSON)
		_, err = w.Write(body)
		return err
	}
	if mode.structured != nil {
		ctx = binding.UseFormatForEvent(binding.WithForceStructured(ctx), mode.structured)
	}
	return cehttp.WriteResponseWriter(ctx, (*binding.EventMessage)(&replies[0]), http.StatusOK, w)
}
