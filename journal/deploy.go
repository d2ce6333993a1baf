package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/events"
)

const (
	maxMessageBytes = 1 << 20
	// ackWaitEach is the ack wait for each deliberation that a pool may have in
	// flight. Workers read the ack wait from their consumer and say that they
	// live at a third of it, so that a pool's heartbeats stay at 200 a second:
	// with several replicas each is a Raft proposal.
	ackWaitEach = 15 * time.Millisecond
	// What a killed worker held comes back soon, however large its pool, and a
	// small pool's workers may still pause for a moment.
	minAckWait, maxAckWait = 15 * time.Second, 60 * time.Second
	// announceWait is the same for the keeper, which announces an end within a
	// moment: what a killed one held goes to the next one soon.
	announceWait = 15 * time.Second
	// duplicateWindow is how long the same announcement is stored once.
	duplicateWindow = 2 * time.Minute
	// deployWait bounds a try to make everything, some ten requests, and
	// deployPatience all tries.
	deployWait, deployPatience = 10 * time.Second, 3 * time.Minute
)

// Pool is a queue to make a consumer for.
type Pool struct {
	Name string
	// InFlight is how many of its deliberations the workers hold at once.
	InFlight int
}

// Layout is what Deploy makes.
type Layout struct {
	Pools []Pool
	// Replicas of every stream: 1, 3 or 5.
	Replicas int
	// MaxAge is how long the journal keeps a deliberation.
	MaxAge time.Duration
	// MaxBytes bounds the journal's size; -1 for no limit.
	MaxBytes int64
	// AgentResponses makes what the Responder needs; false takes its consumer
	// away, so that it starts afresh when it is wanted again.
	AgentResponses bool
	// Relay makes what the relay needs. False takes nothing away: a relay that
	// was given its sink by others may run.
	Relay bool
}

// Deploy makes the streams, buckets and consumers, or updates their settings.
// It is safe to repeat, and to run while deliberations are under way.
//
// A cluster of servers leaves the one unanswered of two that make a stream at
// the same moment, and whoever asks before it has chosen a leader: it is asked
// again.
func (j *Journal) Deploy(ctx context.Context, layout Layout) error {
	if err := j.checkServer(); err != nil {
		return err
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		attempt, cancel := context.WithTimeout(ctx, deployWait)
		defer cancel()
		err := j.deploy(attempt, layout)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(deployPatience))
	return err
}

func (j *Journal) deploy(ctx context.Context, layout Layout) error {
	if err := j.deployStreams(ctx, layout); err != nil {
		return err
	}
	consumers := []jetstream.ConsumerConfig{{
		Durable: announcer, Description: "The keeper's: every end, to be announced.",
		FilterSubject: events.DoneSubjects, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: announceWait, MaxDeliver: -1, MaxAckPending: 1000,
	}}
	for _, pool := range layout.Pools {
		consumers = append(consumers, jetstream.ConsumerConfig{
			Durable: "pool-" + pool.Name, Description: "The Ray workers': what waits in pool " + pool.Name + ".",
			FilterSubject: events.PoolSubject(pool.Name), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: ackWait(pool.InFlight), MaxDeliver: -1, MaxAckPending: pool.InFlight,
		})
	}
	for _, consumer := range consumers {
		if _, err := j.js.CreateOrUpdateConsumer(ctx, Stream, consumer); err != nil {
			return fmt.Errorf("make the consumer %s: %w", consumer.Durable, err)
		}
	}
	if err := j.deployDead(ctx, layout); err != nil {
		return err
	}
	if err := j.deployResponses(ctx, layout); err != nil {
		return err
	}
	if layout.Relay {
		return j.deployRelay(ctx, layout)
	}
	return nil
}

func (j *Journal) deployStreams(ctx context.Context, layout Layout) error {
	for _, stream := range []jetstream.StreamConfig{{
		Name: Stream, Description: "The ray-executor's journal: every event of every deliberation.",
		Subjects: []string{events.JournalSubjects}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxAge: layout.MaxAge, MaxBytes: layout.MaxBytes, MaxMsgSize: maxMessageBytes,
		Replicas: layout.Replicas, AllowDirect: true,
	}, {
		Name: Announcements, Description: "What the Orchestrator hears of deliberations.",
		Subjects: []string{events.AnnouncementSubjects}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxAge: layout.MaxAge, MaxBytes: announcementBytes(layout.MaxBytes), Duplicates: duplicateWindow,
		Replicas: layout.Replicas, AllowDirect: true,
	}} {
		if _, err := j.js.CreateOrUpdateStream(ctx, stream); err != nil {
			return fmt.Errorf("make the stream %s: %w; if the server lacks the room, set JOURNAL_MAX_BYTES lower", stream.Name, err)
		}
	}
	if _, err := j.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: Results, Description: "What no message of the journal can hold, by digest.",
		TTL: layout.MaxAge + time.Hour, Storage: jetstream.FileStorage, Replicas: layout.Replicas,
	}); err != nil {
		return fmt.Errorf("make the object store %s: %w", Results, err)
	}
	if _, err := j.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: Statistics, Description: "The statistics' snapshot.",
		History: 1, Storage: jetstream.FileStorage, Replicas: layout.Replicas,
	}); err != nil {
		return fmt.Errorf("make the bucket %s: %w", Statistics, err)
	}
	return nil
}

// ackWait is how long the workers of a pool may be silent about what they hold.
func ackWait(inFlight int) time.Duration {
	return min(max(minAckWait, time.Duration(inFlight)*ackWaitEach), maxAckWait)
}

// announcementBytes gives the announcements a quarter of the journal's room:
// an end is there once, and listeners drain it.
func announcementBytes(journal int64) int64 {
	if journal < 0 {
		return journal
	}
	return journal / 4
}

// keptBytes is the room of what waits for a person.
func keptBytes(journal int64) int64 { return announcementBytes(announcementBytes(journal)) }
