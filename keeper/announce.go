package keeper

import (
	"context"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"

	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/keeper/internal/delivery"
)

// announceEnds announces ends until ctx ends or NATS is away. All keepers share one
// durable consumer, so each end goes to one of them, and an end that none has
// acknowledged is redelivered, to this keeper or another.
func (k *Keeper) announceEnds(ctx context.Context) error {
	return k.journal.Ends(ctx, journal.Announcer, k.announce)
}

// announce publishes an end to listeners such as the Orchestrator, as a structured
// CloudEvent. Repeating it is safe: the event id, which is the message id too, is
// fixed, so JetStream drops a repeat within its duplicate window, and listeners
// can recognise a later one.
func (k *Keeper) announce(ctx context.Context, end journal.Delivery) error {
	id, state, err := delivery.Ended(end.Event)
	if err != nil {
		return err
	}
	e, err := delivery.EndEvent(ctx, k.journal, end)
	if err != nil {
		return err
	}
	body, err := e.MarshalJSON() // json.Marshal would validate and copy the data once more
	if err != nil {
		return fmt.Errorf("announce %s: %w", id, err)
	}
	header := map[string][]string{"content-type": {event.ApplicationCloudEventsJSON}}
	if err := k.journal.Announce(ctx, events.AnnouncementSubject(state), events.DoneEventID(id), header, body); err != nil {
		return err
	}
	k.log.DebugContext(ctx, "announced", "deliberation", id, "end", state, "trace", events.TraceID(end.TraceParent))
	return nil
}
