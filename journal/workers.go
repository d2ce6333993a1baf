package journal

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

const (
	// heartbeatAge is when the server deletes a heartbeat; workers send one about
	// every 10 s.
	heartbeatAge = time.Minute
	// maxHeartbeatBytes bounds one heartbeat, maxHeartbeats how many are read:
	// the bucket is writable for anyone on the NATS.
	maxHeartbeatBytes = 16 << 10
	maxHeartbeats     = 10_000
	// operationHeader marks a deleted key.
	operationHeader = "KV-Operation"
	// heartbeatsFresh is how long heartbeats are answered from memory.
	heartbeatsFresh = time.Second
)

// heartbeats caches the last read of the bucket.
type heartbeats struct {
	mu     sync.Mutex
	read   time.Time
	each   map[string]deliberation.Heartbeat
	bucket bool
}

func (h *heartbeats) set(each map[string]deliberation.Heartbeat, bucket bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read, h.each, h.bucket = time.Now(), each, bucket
}

func (h *heartbeats) get() (each map[string]deliberation.Heartbeat, bucket, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.each, h.bucket, time.Since(h.read) <= heartbeatsFresh
}

// Heartbeats returns the last heartbeat of each worker replica of the last
// minute, by the replica's id. The map is up to a second old and must not be
// changed. bucket is false if the journal was deployed by an older version,
// without a bucket of heartbeats: then nothing is known of the workers.
// Unavailable: NATS cannot be reached.
func (j *Journal) Heartbeats(ctx context.Context) (each map[string]deliberation.Heartbeat, bucket bool, err error) {
	if each, bucket, fresh := j.beats.get(); fresh {
		return each, bucket, nil
	}
	// One read serves all concurrent callers. It outlives the first caller's
	// context, while each caller waits no longer than its own.
	read := j.refreshes.DoChan(Workers, func() (any, error) { return nil, j.readHeartbeats(context.WithoutCancel(ctx)) })
	select {
	case result := <-read:
		each, bucket, _ = j.beats.get()
		return each, bucket, result.Err
	case <-ctx.Done():
		return nil, false, j.failed("read the workers' heartbeats", ctx.Err())
	}
}

// readHeartbeats reads the bucket into the cache.
func (j *Journal) readHeartbeats(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	stream, err := j.js.Stream(ctx, bucketStream(j.name(Workers)))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		j.beats.set(nil, false)
		return nil
	}
	if err != nil {
		return j.failed("read the workers' heartbeats", err)
	}
	messages, err := j.firstOf(ctx, "read the workers' heartbeats", bucketStream(j.name(Workers)), maxHeartbeats)
	if err != nil {
		return err
	}
	j.beats.set(heartbeatsIn(messages, stream.CachedInfo().TimeStamp), true)
	return nil
}

// heartbeatsIn decodes messages of the bucket. now is the time of the bucket's
// server, which also sets the messages' times: no other clock is compared. What is
// no heartbeat is skipped, because anyone on the NATS may write there.
func heartbeatsIn(messages []*jetstream.RawStreamMsg, now time.Time) map[string]deliberation.Heartbeat {
	each := make(map[string]deliberation.Heartbeat, len(messages))
	for _, message := range messages {
		beat, age := &pb.WorkerHeartbeat{}, max(0, now.Sub(message.Time))
		if age > heartbeatAge || message.Header.Get(operationHeader) != "" || len(message.Data) > maxHeartbeatBytes ||
			proto.Unmarshal(message.Data, beat) != nil || beat.GetReplica() == "" {
			continue
		}
		each[beat.GetReplica()] = deliberation.Heartbeat{WorkerHeartbeat: beat, Age: age}
	}
	return each
}
