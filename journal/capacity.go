package journal

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// watermarkShare is how full the journal may be for a request to be taken: the
// rest belongs to what was accepted, so that it can always end.
const watermarkShare = 0.8

// storeShare is the same for requests that are so large that they go to the
// object store: results go there too.
const storeShare = 0.5

const (
	// capacityFresh is how long a look at the stream's state is believed.
	capacityFresh = time.Second
	// capacityTrusted is how long it is believed while there is no newer one.
	capacityTrusted = time.Minute
	// refreshPatience is how long such a newer one is waited for.
	refreshPatience = 250 * time.Millisecond
)

// capacity remembers how full the journal is.
type capacity struct {
	mu       sync.Mutex
	seen     time.Time
	bytes    int64 // stored then, and by us since
	maxBytes int64 // -1 for no limit
	messages int64
	maxMsgs  int64
	objects  int64 // bytes of the object store
	maxObjs  int64
}

// add counts a message that was stored since the last look.
func (w *capacity) add(size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(size)
	w.messages++
}

// setObjects notes how full the object store is.
func (w *capacity) setObjects(info *jetstream.StreamInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.objects, w.maxObjs = int64(info.State.Bytes), info.Config.MaxBytes
}

func (w *capacity) set(info *jetstream.StreamInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = time.Now()
	w.bytes, w.maxBytes = int64(info.State.Bytes), info.Config.MaxBytes
	w.messages, w.maxMsgs = int64(info.State.Msgs), info.Config.MaxMsgs
}

func (w *capacity) fresh() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.seen) <= capacityFresh
}

// refusal is why a request has no room, nil where it has. One that needs the
// object store leaves more of that to results.
func (w *capacity) refusal(needsStore bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	above := func(used, limit int64, share float64) bool { return limit > 0 && float64(used) > share*float64(limit) }
	const raise = "try again later, or ask the operator to raise "
	switch {
	case above(w.bytes, w.maxBytes, watermarkShare):
		return full(nil)
	case above(w.messages, w.maxMsgs, watermarkShare):
		return fullOf("the journal", raise+"JOURNAL_MAX_MESSAGES", nil)
	case above(w.objects, w.maxObjs, watermarkShare), needsStore && above(w.objects, w.maxObjs, storeShare):
		return fullOf("the store of large requests and results", raise+"JOURNAL_MAX_BYTES", nil)
	default:
		return nil
	}
}

// known reports whether the last look can stand in for one that is not answered.
func (w *capacity) known() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.seen) <= capacityTrusted
}

// checkCapacity refuses, with LimitReached, while the journal is above the
// watermark. Publishing may work while the stream's state is not told: then the
// last look counts for a while, with what was stored from here since.
func (j *Journal) checkCapacity(ctx context.Context, needsStore bool) error {
	if !j.capacity.fresh() {
		if err := j.refresh(ctx, j.capacity.known()); err != nil && !j.capacity.known() {
			return err
		}
	}
	return j.capacity.refusal(needsStore)
}

// refresh reads the journal's state, once for all who wait for it; each waits no
// longer than its own context, and only a moment where it can do without.
func (j *Journal) refresh(ctx context.Context, briefly bool) error {
	if briefly {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, refreshPatience)
		defer cancel()
	}
	looked := j.refreshes.DoChan("", func() (any, error) {
		info, err := j.info(context.WithoutCancel(ctx))
		if err == nil {
			j.capacity.set(info)
			j.refreshObjects(context.WithoutCancel(ctx))
		}
		return nil, err
	})
	select {
	case result := <-looked:
		return result.Err
	case <-ctx.Done():
		return j.failed("read the journal's state", ctx.Err())
	}
}

// refreshObjects reads how full the object store is. One that is not told, or not
// there, holds nothing up.
func (j *Journal) refreshObjects(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	bucket, err := j.js.Stream(ctx, objectStream(j.name(Results)))
	if err != nil {
		j.log.Debug("look at the object store", "error", err)
		return
	}
	j.capacity.setObjects(bucket.CachedInfo())
}
