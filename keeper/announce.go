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
	Lighten(ctx context.Context, message proto.Message) (proto.Message, error)
}

// forAttributes is what an event's attributes may take of an announcement.
const forAttributes = 4 << 10

// endEvent is the CloudEvent that tells of an end, on NATS and to a sink. One
// that would be too large for NATS comes without its results.
func endEvent(ctx context.Context, journal lightener, end journal.Delivery, id string) (event.Event, error) {
	data, err := events.MarshalJSON(end.Event)
	if err == nil && len(data) > journal.MaxAnnouncement()-forAttributes {
		var light proto.Message
		if light, err = journal.Lighten(ctx, end.Event); err == nil {
			data, err = events.MarshalJSON(light)
		}
	}
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

// ended returns what a life-cycle message says has ended, and how.
func ended(message proto.Message) (id string, state deliberation.State, err error) {
	about, ok := message.(interface{ GetDeliberationId() string })
	story := deliberation.Fold([]deliberation.Entry{{Event: message}})
	if !ok || !story.State.Ended() {
		return "", "", fmt.Errorf("%s is no end", events.Type(message))
	}
	return about.GetDeliberationId(), story.State, nil
}
