package keeper

import (
	"context"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
)

func (k *Keeper) announceEnds(ctx context.Context) error {
	return k.journal.Ends(ctx, journal.Announcer, k.announce)
}

// announce tells the Orchestrator of an end: one structured CloudEvent whose
// id is fixed, so that a repeat can be recognized.
func (k *Keeper) announce(ctx context.Context, end journal.Delivery) error {
	id, state, err := ended(end.Event)
	if err != nil {
		return err
	}
	e, err := endEvent(ctx, k.journal, end, id)
	if err != nil {
		return err
	}
	body, err := e.MarshalJSON() // json.Marshal would go over the data once more
	if err != nil {
		return fmt.Errorf("announce %s: %w", id, err)
	}
	header := map[string][]string{"content-type": {event.ApplicationCloudEventsJSON}}
	return k.journal.Announce(ctx, events.AnnouncementSubject(state), events.DoneEventID(id), header, body)
}

// lightener is what an event that is too large needs of the journal.
type lightener interface {
	MaxAnnouncement() int
	Offload(ctx context.Context, message proto.Message) (proto.Message, error)
}

// forAttributes is what an event's attributes may take of an announcement.
const forAttributes = 4 << 10

// patientFor is how often an end waits for room for its results.
const patientFor = 5

// endEvent is the CloudEvent that tells of an end, on NATS and to a sink. One
// that would be too large for NATS comes without its results.
func endEvent(ctx context.Context, journal lightener, end journal.Delivery, id string) (event.Event, error) {
	data, err := fitting(ctx, journal, end)
	if err != nil {
		return event.Event{}, fmt.Errorf("tell of %s: %w", id, err)
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

// fitting is an end in JSON that NATS takes: whole; or without its results,
// which an object has; or with short texts too. Control characters take six
// times their size in JSON.
func fitting(ctx context.Context, journal lightener, end journal.Delivery) ([]byte, error) {
	room := journal.MaxAnnouncement() - forAttributes
	data, err := events.MarshalJSON(end.Event)
	if err != nil || len(data) <= room {
		return data, err
	}
	light, err := lighten(ctx, journal, end)
	if err != nil {
		return nil, err
	}
	if data, err = events.MarshalJSON(light); err != nil || len(data) <= room {
		return data, err
	}
	return events.MarshalJSON(events.Shorten(light, room/64))
}

// lighten moves an end's results to the object store. One that has found no
// room there for a while goes without: a status has them.
func lighten(ctx context.Context, journal lightener, end journal.Delivery) (proto.Message, error) {
	light, err := journal.Offload(ctx, end.Event)
	if err != nil && deliberation.AsError(err).Code == deliberation.LimitReached && end.Attempt >= patientFor {
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

// ended returns what a life-cycle message says has ended, and how.
func ended(message proto.Message) (id string, state deliberation.State, err error) {
	about, ok := message.(interface{ GetDeliberationId() string })
	story := deliberation.Fold([]deliberation.Entry{{Event: message}})
	if !ok || !story.State.Ended() {
		return "", "", fmt.Errorf("%s is no end", events.Type(message))
	}
	return about.GetDeliberationId(), story.State, nil
}
