package relay

import (
	"context"

	"rayexecutor/journal"
)

// Resend posts undelivered ends once, and deletes those that the sink takes: that
// of one deliberation, or all where id is empty. It reports the outcome of each.
// Commands call it in place of Run. If it stops between the post and the deletion,
// a repeat posts the end again under the same event id.
func (r *Relay) Resend(ctx context.Context, id string, report func(end journal.Undelivered, refused error)) error {
	defer r.sink.Close()
	for end, err := range r.journal.ReadUndelivered(ctx, id) {
		if err != nil && end.ID == "" {
			return err
		}
		if err == nil { // an end that cannot be read does not stop the others
			err = r.post(ctx, end.Delivery)
		}
		if err == nil {
			err = r.journal.DeleteUndelivered(ctx, end)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		report(end, err)
	}
	return nil
}
