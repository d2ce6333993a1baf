package journal

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
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
	// InFlight is how many of its deliberations the workers of all clusters hold
	// at once, at the most: as many as agents are in flight.
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
	// MaxMessages bounds how many messages the journal holds, and with them the
	// server's memory; 0 or -1 for no limit.
	MaxMessages int64
	// AgentResponses makes what the Responder needs; false takes its consumer
	// away, so that it starts afresh when it is wanted again.
	AgentResponses bool
	// Relay makes what the relay needs. False takes nothing away: a relay that
	// was given its sink by others may run.
	Relay bool
}

// Deploy makes the streams, buckets and consumers, or updates their settings.
// It is safe to repeat, and to run while deliberations are under way. Where a
// stream of somebody else stands in the way, nothing is made.
//
// A cluster of servers leaves the one unanswered of two that make a stream at
// the same moment, and whoever asks before it has chosen a leader: it is asked
// again, for three minutes at most, and the log says why. What no waiting mends
// is told at once: see Permanent.
func (j *Journal) Deploy(ctx context.Context, layout Layout) error {
	if err := j.Reach(ctx); err != nil {
		return err
	}
	ctx, stop := j.whileAllowed(ctx)
	defer stop()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		attempt, cancel := context.WithTimeout(ctx, deployWait)
		defer cancel()
		err := j.deploy(attempt, layout)
		if err != nil && !passing(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(deployPatience), backoff.WithNotify(func(err error, _ time.Duration) {
		j.log.Warn("NATS is not ready for it yet; trying again", "reason", err)
	}))
	if cause := context.Cause(ctx); err != nil && cause != nil && !Permanent(err) {
		return j.failed("deploy", cause)
	}
	return err
}

// passing reports whether a cluster of servers may answer otherwise in a moment.
func passing(err error) bool {
	return !Permanent(err) && (errors.Is(err, context.DeadlineExceeded) || hasCode(err, codeNotAvailable) || hasCode(err, codeNoPeers))
}

func (j *Journal) deploy(ctx context.Context, layout Layout) error {
	layout.MaxMessages = j.messageLimit(ctx, layout.MaxMessages)
	needs, err := j.survey(ctx, j.needs(layout))
	if err != nil {
		return err
	}
	for _, need := range needs {
		if err := need.make(ctx); err != nil {
			return j.refused("make the "+need.what, err)
		}
	}
	for _, consumer := range consumers(layout) {
		if _, err := j.js.CreateOrUpdateConsumer(ctx, j.name(Stream), consumer); err != nil {
			return j.refused("make the consumer "+consumer.Durable, err)
		}
	}
	if !layout.AgentResponses {
		return j.dropResponder(ctx)
	}
	return nil
}

// messageLimit returns a limit of messages that leaves what was accepted the room
// to end: a journal that holds more than its watermark takes nothing new, but
// must not be full. The next deploy lowers it as messages age.
func (j *Journal) messageLimit(ctx context.Context, limit int64) int64 {
	stream, err := j.js.Stream(ctx, j.name(Stream))
	if err != nil || limit <= 0 {
		return limit // it is not there yet, or making it tells why not
	}
	least := int64(stream.CachedInfo().State.Msgs) * 5 / 4
	if least > limit {
		j.log.Warn("the journal holds more than JOURNAL_MAX_MESSAGES allows for; what was accepted ends, new requests are refused until there is room",
			"messages", stream.CachedInfo().State.Msgs, "JOURNAL_MAX_MESSAGES", limit)
	}
	return max(limit, least)
}

func consumers(layout Layout) []jetstream.ConsumerConfig {
	ends := func(reader Reader, description string) jetstream.ConsumerConfig {
		return jetstream.ConsumerConfig{
			Durable: reader.consumer, Description: description,
			FilterSubject: events.DoneSubjects, AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: announceWait, MaxDeliver: -1, MaxAckPending: 1000,
		}
	}
	dead := ends(DeadLetterWriter, "The keeper's: every failure, for those that were given up.")
	dead.FilterSubject, dead.MaxAckPending = events.Subject(deliberation.KindDone, string(deliberation.Failed), "*"), 100
	all := []jetstream.ConsumerConfig{ends(Announcer, "The keeper's: every end, to be announced."), dead}
	for _, pool := range layout.Pools {
		all = append(all, jetstream.ConsumerConfig{
			Durable: "pool-" + pool.Name, Description: "The Ray workers': what waits in pool " + pool.Name + ".",
			FilterSubject: events.PoolSubject(pool.Name), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: ackWait(pool.InFlight), MaxDeliver: -1, MaxAckPending: pool.InFlight,
		})
	}
	if layout.AgentResponses {
		responder := ends(Responder, "The keeper's: every end, each agent of which is told (AGENT_RESPONSES=true).")
		// Whoever switches it on does not expect to hear the last week.
		responder.DeliverPolicy = jetstream.DeliverNewPolicy
		all = append(all, responder)
	}
	if layout.Relay {
		all = append(all, relayConsumer())
	}
	return all
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

// resultsBytes is the room of what no message can hold: an eighth.
func resultsBytes(journal int64) int64 {
	if journal < 0 {
		return journal
	}
	return journal / 8
}

// deadLetterBytes is the room of what waits for a person.
func deadLetterBytes(journal int64) int64 { return announcementBytes(announcementBytes(journal)) }
