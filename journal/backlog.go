package journal

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Every keeper, and every function that is asked for statistics, has all open
// deliberations in its memory: 180 bytes each. So their number is limited. Keepers
// know it and publish it; submit reads it and refuses new requests above the limit.

const (
	// MaxOpen is how many deliberations may be open. A pod of 256 MiB has room for
	// them, and for those that are accepted until the next publication.
	MaxOpen = 500_000
	// openKey is the key of their number, beside the snapshot.
	openKey = "open"
	// openFresh is how long a published number counts. Without a keeper it must not
	// refuse requests for good.
	openFresh = time.Minute
)

// PublishOpen publishes how many deliberations are open. It is safe to repeat.
func (j *Journal) PublishOpen(ctx context.Context, open int64) error {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	bucket, err := j.js.KeyValue(ctx, j.name(Statistics))
	if err != nil {
		return j.failed("reach the bucket "+j.name(Statistics), err)
	}
	if _, err := bucket.Put(ctx, openKey, strconv.AppendInt(nil, open, 10)); err != nil {
		return j.failed("publish the number of open deliberations", err)
	}
	return nil
}

// refreshOpen reads the published number; 0 if there is none, or it is old. now is
// the server's time. After a failure the last one counts until the next refresh.
func (j *Journal) refreshOpen(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	open, err := j.readOpen(ctx, now)
	if err != nil {
		j.log.Debug("could not read the number of open deliberations", "error", err)
		return
	}
	j.capacity.setOpen(open)
}

func (j *Journal) readOpen(ctx context.Context, now time.Time) (int64, error) {
	bucket, err := j.js.KeyValue(ctx, j.name(Statistics))
	if err != nil {
		return 0, err
	}
	entry, err := bucket.Get(ctx, openKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case now.Sub(entry.Created()) > openFresh:
		return 0, nil
	}
	return strconv.ParseInt(string(entry.Value()), 10, 64)
}
