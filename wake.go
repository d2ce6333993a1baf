package function

import (
	"context"
	"time"
)

// Wake is for hosts that freeze the process between requests: it returns once
// the connection to NATS can be used, or with why not when ctx ends. idle is
// how long the process may have been stopped. Handle may be called all the
// same: it answers 503 while NATS is away.
func (f *Function) Wake(ctx context.Context, idle time.Duration) error {
	parts := f.parts.Load()
	if parts == nil {
		return errStarting
	}
	return parts.journal.Wake(ctx, idle)
}
