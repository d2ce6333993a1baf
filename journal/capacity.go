package journal

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A request is accepted only while the journal is below its watermark and at most
// MaxOpen deliberations are open. The rest of the journal is reserved for the events
// of accepted deliberations: each must be able to end.

const (
	// watermarkShare of the journal's bytes and messages is for requests too.
	watermarkShare = 0.8
	// storeShare of the object store is for offloaded requests too; the rest is
	// reserved for results.
	storeShare = 0.5
)

const (
	// capacityFresh is how long the last state of the stream is used without a
	// refresh.
	capacityFresh = time.Second
	// capacityTrusted is how long it is used while refreshes fail.
	capacityTrusted = time.Minute
	// refreshPatience bounds the wait for a refresh while the last state is trusted.
	refreshPatience = 250 * time.Millisecond
)

// capacity caches how full the journal is. Between two refreshes it counts what
// this process stores, and not what others do: the watermark may be exceeded by
// what they store in a second.
type capacity struct {
	mu       sync.Mutex
	seen     time.Time
	bytes    int64 // at the refresh, and stored by this process since
	maxBytes int64 // -1 for no limit
	messages int64 // as bytes
	maxMsgs  int64
	objects  int64 // bytes of the object store
	maxObjs  int64
	open     int64 // deliberations, as a keeper has published
}

// add counts a message that this process has stored since the last refresh.
func (c *capacity) add(size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += int64(size)
	c.messages++
}

// setObjects caches how full the object store is.
func (c *capacity) setObjects(info *jetstream.StreamInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects, c.maxObjs = int64(info.State.Bytes), info.Config.MaxBytes
}

// setOpen caches how many deliberations are open.
func (c *capacity) setOpen(open int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = open
}

// set caches the journal's state, and discards what add has counted: the state has it.
func (c *capacity) set(info *jetstream.StreamInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = time.Now()
	c.bytes, c.maxBytes = int64(info.State.Bytes), info.Config.MaxBytes
	c.messages, c.maxMsgs = int64(info.State.Msgs), info.Config.MaxMsgs
}

// fresh reports whether the cached state needs no refresh.
func (c *capacity) fresh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.seen) <= capacityFresh
}

// refusal is LimitReached if a request must not be accepted, nil otherwise. Each
// limit has its own message, which names the setting to raise. needsStore says that
// the request is offloaded.
func (c *capacity) refusal(needsStore bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	above := func(used, limit int64, share float64) bool { return limit > 0 && float64(used) > share*float64(limit) }
	const raise = "try again later, or ask the operator to raise "
	switch {
	case above(c.bytes, c.maxBytes, watermarkShare):
		return full(nil)
	case above(c.messages, c.maxMsgs, watermarkShare):
		return fullOf("the journal", raise+"JOURNAL_MAX_MESSAGES", nil)
	case above(c.objects, c.maxObjs, watermarkShare), needsStore && above(c.objects, c.maxObjs, storeShare):
		return fullOf("the store of large requests and results", raise+"JOURNAL_MAX_BYTES", nil)
	case c.open > MaxOpen:
		return fullOf("the backlog", "500,000 deliberations are open: try again later, cancel some, or ask the operator for more workers", nil)
	default:
		return nil
	}
}

// trusted reports whether the cached state may replace a refresh that fails.
func (c *capacity) trusted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.seen) <= capacityTrusted
}

// checkCapacity returns LimitReached while the journal is above the watermark.
//
// The request for the stream's state may fail while publishing works, for example
// on an overloaded server. Then the cached state is used for a while.
func (j *Journal) checkCapacity(ctx context.Context, needsStore bool) error {
	if !j.capacity.fresh() {
		if err := j.refresh(ctx, j.capacity.trusted()); err != nil && !j.capacity.trusted() {
			return err
		}
	}
	// A small excess is possible: concurrent requests are counted after their append.
	return j.capacity.refusal(needsStore)
}

// refresh reads the journal's state from the leader. One request serves all
// concurrent callers. It outlives the first caller's context, while each caller
// waits no longer than its own; briefly shortens that wait.
func (j *Journal) refresh(ctx context.Context, briefly bool) error {
	if briefly {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, refreshPatience)
		defer cancel()
	}
	refreshed := j.refreshes.DoChan("", func() (any, error) {
		info, err := j.info(context.WithoutCancel(ctx))
		if err == nil {
			j.capacity.set(info)
			j.refreshObjects(context.WithoutCancel(ctx))
			j.refreshOpen(context.WithoutCancel(ctx), info.TimeStamp)
		}
		return nil, err
	})
	select {
	case result := <-refreshed:
		return result.Err
	case <-ctx.Done():
		return j.failed("read the journal's state", ctx.Err())
	}
}

// refreshObjects reads how full the object store is. A failure is not an error: a
// full object store also refuses the offload itself.
func (j *Journal) refreshObjects(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	bucket, err := j.js.Stream(ctx, objectStream(j.name(Results)))
	if err != nil {
		j.log.Debug("could not read the state of the object store", "error", err)
		return
	}
	j.capacity.setObjects(bucket.CachedInfo())
}
