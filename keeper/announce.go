package keeper

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
)

func (k *Keeper) announceEnds(ctx context.Context) error {
	return k.journal.Ends(ctx, k.announce)
}

// announce tells the Orchestrator of an end: one structured CloudEvent whose
// id is fixed, so that a repeat can be recognized.
func (k *Keeper) announce(ctx context.Context, end journal.Delivery) error {
	id, state, err := ended(end.Event)
	if err != nil {
		return err
	}
	body, err := announcement(end, id, end.Event)
	if err != nil {
		return err
	}
	if len(body) > k.journal.MaxAnnouncement() {
		light, err := k.journal.Lighten(ctx, end.Event)
		if err != nil {
			return err
		}
		if body, err = announcement(end, id, light); err != nil {
			return err
		}
	}
	header := map[string][]string{"content-type": {event.ApplicationCloudEventsJSON}}
	return k.journal.Announce(ctx, events.AnnouncementSubject(state), events.DoneEventID(id), header, body)
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

func announcement(end journal.Delivery, id string, message proto.Message) ([]byte, error) {
	data, err := events.MarshalJSON(message)
	if err != nil {
		return nil, fmt.Errorf("announce %s: %w", id, err)
	}
	e := event.New()
	e.SetID(events.DoneEventID(id))
	e.SetSource(events.Source)
	e.SetType(events.Type(message))
	e.SetSubject(id)
	e.SetTime(end.Time)
	if end.TraceParent != "" {
		e.SetExtension(events.TraceParent, end.TraceParent)
	}
	e.SetDataContentType(events.JSON)
	e.DataEncoded = data
	return json.Marshal(e)
}
