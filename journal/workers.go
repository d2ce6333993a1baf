package journal

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Workers is the key-value bucket of the worker replicas' heartbeats, one key a
// replica.
const Workers = "DELIBERATION_WORKERS"

const (
	// heartbeatAge is when the server forgets a heartbeat; workers send one about
	// every 10 s.
	heartbeatAge = time.Minute
	// WorkersBytes is the room of the bucket of heartbeats, which take some 300
	// bytes each.
	WorkersBytes = 8 << 20
	// maxHeartbeatBytes bounds one that is read, maxHeartbeats how many are.
	maxHeartbeatBytes = 16 << 10
	maxHeartbeats     = 10_000
	// operationHeader says that a key was deleted.
	operationHeader = "KV-Operation"
	// heartbeatsFor is how long heartbeats that were read are told again.
	heartbeatsFor = time.Second
)

// workersBucket holds what is of use for a minute.
func (j *Journal) workersBucket(layout Layout) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: j.name(Workers), Description: "The Ray workers' heartbeats.", History: 1, TTL: heartbeatAge,
		MaxValueSize: maxHeartbeatBytes, MaxBytes: WorkersBytes, Storage: jetstream.FileStorage, Replicas: layout.Replicas,
	}
}

// heartbeats remembers what was read a moment ago.
type heartbeats struct {
	mu   sync.Mutex
	read time.Time
	each map[string]deliberation.Heartbeat
	kept bool
}

func (h *heartbeats) set(each map[string]deliberation.Heartbeat, kept bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read, h.each, h.kept = time.Now(), each, kept
}

func (h *heartbeats) get() (each map[string]deliberation.Heartbeat, kept, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.each, h.kept, time.Since(h.read) <= heartbeatsFor
}

// Heartbeats returns the last word of each worker replica that has said one in
// the last minute, by the replica's id; it is up to a second old and must not be
// changed. kept is false where the journal has no bucket for them, because an
// older version made it. Unavailable: NATS is away.
func (j *Journal) Heartbeats(ctx context.Context) (each map[string]deliberation.Heartbeat, kept bool, err error) {
	if each, kept, fresh := j.beats.get(); fresh {
		return each, kept, nil
	}
	// Once for all who ask; each waits no longer than its own context.
	read := j.refreshes.DoChan(Workers, func() (any, error) { return nil, j.readHeartbeats(context.WithoutCancel(ctx)) })
	select {
	case result := <-read:
		each, kept, _ = j.beats.get()
		return each, kept, result.Err
	case <-ctx.Done():
		return nil, false, j.failed("read the workers' heartbeats", ctx.Err())
	}
}

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
	messages, err := j.firstOf(ctx, bucketStream(j.name(Workers)), maxHeartbeats)
	if err != nil {
		return j.failed("read the workers' heartbeats", err)
	}
	j.beats.set(heartbeatsIn(messages, stream.CachedInfo().TimeStamp), true)
	return nil
}

// heartbeatsIn reads messages of the bucket as of a time of its server. What is no
// heartbeat is left out: anyone on the NATS may write there.
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

// batchRequest asks any replica for a stream's messages from a sequence on.
type batchRequest struct {
	From     uint64 `json:"seq"`
	Subject  string `json:"next_by_subj"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
}

// firstOf reads a stream's messages in their order, from any replica, up to a
// number and not many more.
func (j *Journal) firstOf(ctx context.Context, stream string, most int) ([]*jetstream.RawStreamMsg, error) {
	replies := make(chan *nats.Msg, answerMessages)
	subscription, err := j.conn.ChanSubscribe(j.conn.NewInbox(), replies)
	if err != nil {
		return nil, err
	}
	defer func() { _ = subscription.Unsubscribe() }()
	var messages []*jetstream.RawStreamMsg
	for request := (batchRequest{From: 1, Subject: ">", Batch: answerMessages - 1, MaxBytes: answerBytes}); ; {
		body, err := json.Marshal(request)
		if err != nil {
			return nil, err
		}
		if err := j.conn.PublishRequest("$JS.API.DIRECT.GET."+stream, subscription.Subject, body); err != nil {
			return nil, err
		}
		some, end, err := answer(ctx, replies)
		if err != nil {
			return nil, err
		}
		messages = append(messages, some...)
		if end.pending == 0 || len(some) == 0 || len(messages) >= most {
			return messages, nil
		}
		request.From = end.last + 1
	}
}

// bucketStream is the stream behind a key-value bucket.
func bucketStream(bucket string) string { return "KV_" + bucket }
