// Package delivery is what the keeper and the relay share: the CloudEvent of an
// end, the pause between two tries to deliver it, and the loop that starts a task
// again after a failure.
package delivery

import (
	"context"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
)

// OffloadAttempts is how often an end waits for room in the object store for its
// results. After that it is delivered without them.
const OffloadAttempts = 5

// attributeBytes is reserved for an event's attributes in an announcement.
const attributeBytes = 4 << 10

// Offloader is the part of the journal that a large event needs.
type Offloader interface {
	// MaxAnnouncement is the largest announcement, in bytes.
	MaxAnnouncement() int
	// Offload stores a message as an object and returns it without its bulky field,
	// which a reference replaces. Repeating it stores nothing twice. LimitReached:
	// the object store is full.
	Offload(ctx context.Context, message proto.Message) (proto.Message, error)
}

// EndEvent returns the CloudEvent of an end, for NATS and for a sink. Its id
// depends on the deliberation alone, so that receivers recognise a repeat,
// whichever keeper or relay sends it. An event that is too large for NATS comes
// without its results, for a sink too: receivers see one form.
func EndEvent(ctx context.Context, journal Offloader, end journal.Delivery) (event.Event, error) {
	id, _, err := Ended(end.Event)
	if err != nil {
		return event.Event{}, err
	}
	data, err := fitting(ctx, journal, end)
	if err != nil {
		return event.Event{}, fmt.Errorf("encode the end of %s: %w", id, err)
	}
	e := event.New()
	e.SetID(events.DoneEventID(id))
	e.SetSource(events.Source)
	e.SetType(events.Type(end.Event))
	e.SetSubject(id)
	e.SetTime(end.Time)
	if end.TraceParent != "" {
		e.SetExtension(events.TraceParent, end.TraceParent)
	}
	e.SetDataContentType(events.JSON)
	e.DataEncoded = data
	return e, nil
}

// Ended returns the id of the deliberation that an event ends, and its final
// state. Any other event is an error.
func Ended(message proto.Message) (id string, state deliberation.State, err error) {
	about, ok := message.(interface{ GetDeliberationId() string })
	state = deliberation.EndState(message)
	if !ok || !state.Ended() {
		return "", "", fmt.Errorf("%s is no end", events.Type(message))
	}
	return about.GetDeliberationId(), state, nil
}

// fitting returns an end in JSON that fits a NATS message. It tries the whole
// end, then the end with its results offloaded, then with short texts as well:
// JSON takes six bytes for a control character, so any text may be too large.
func fitting(ctx context.Context, journal Offloader, end journal.Delivery) ([]byte, error) {
	limit := journal.MaxAnnouncement() - attributeBytes
	data, err := events.MarshalJSON(end.Event)
	if err != nil || len(data) <= limit {
		return data, err
	}
	light, err := offload(ctx, journal, end)
	if err != nil {
		return nil, err
	}
	if data, err = events.MarshalJSON(light); err != nil || len(data) <= limit {
		return data, err
	}
	return events.MarshalJSON(events.Shorten(light, limit/64))
}

// offload moves an end's results to the object store. After OffloadAttempts in a
// full store it drops them instead: an end must be delivered, and the status of
// the deliberation still has the results.
func offload(ctx context.Context, journal Offloader, end journal.Delivery) (proto.Message, error) {
	light, err := journal.Offload(ctx, end.Event)
	if err != nil && deliberation.AsError(err).Code == deliberation.LimitReached && end.Attempt >= OffloadAttempts {
		return withoutResults(end.Event), nil
	}
	return light, err
}

func withoutResults(end proto.Message) proto.Message {
	light := proto.Clone(end)
	if results := light.ProtoReflect().Descriptor().Fields().ByName("results"); results != nil {
		light.ProtoReflect().Clear(results)
	}
	return light
}
