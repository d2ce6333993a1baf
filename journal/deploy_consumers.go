package journal

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// All consumers are durable and acknowledge explicitly: a message that its reader
// has not acknowledged within the ack wait goes to another reader. MaxDeliver is
// unlimited, because only the readers decide when to stop trying.

const (
	// ackWaitEach is the ack wait for each deliberation that a pool may have in
	// flight. Workers read the ack wait from their consumer and extend it at a
	// third of it. The factor bounds the extensions of a pool to 200 a second:
	// with several replicas each is a Raft proposal.
	ackWaitEach = 15 * time.Millisecond
	// minAckWait lets the workers of a small pool pause for a moment; maxAckWait
	// bounds the time until the deliberations of a killed worker are redelivered.
	minAckWait, maxAckWait = 15 * time.Second, 60 * time.Second
	// announceWait is the ack wait of the keeper, which announces an end within
	// a moment. The ends of a killed keeper go to another one after that.
	announceWait = 15 * time.Second
	// relayWait is the ack wait of the relay. It covers the time in the relay's
	// queue and the time until the sink answers.
	relayWait = 90 * time.Second
	// relayInFlight bounds the ends that the relay holds, including those that
	// wait for their next attempt.
	relayInFlight = 256
	// readerInFlight is the same for the other readers of the ends.
	readerInFlight = 1000
	// deadLettersInFlight is lower, because each dead letter is a whole history.
	deadLettersInFlight = 100
)

// consumers lists the consumers of a layout.
func consumers(layout Layout) []jetstream.ConsumerConfig {
	dead := endConsumer(DeadLetterWriter, "The keeper's: every failure, to store those that are dead letters.")
	dead.FilterSubject = events.Subject(deliberation.KindDone, string(deliberation.Failed), "*")
	dead.MaxAckPending = deadLettersInFlight
	all := []jetstream.ConsumerConfig{endConsumer(Announcer, "The keeper's: every end, to be announced."), dead}
	for _, pool := range layout.Pools {
		all = append(all, jetstream.ConsumerConfig{
			Durable: "pool-" + pool.Name, Description: "The Ray workers': the requests of pool " + pool.Name + ".",
			FilterSubject: events.PoolSubject(pool.Name), AckPolicy: jetstream.AckExplicitPolicy,
			AckWait: ackWait(pool.InFlight), MaxDeliver: -1, MaxAckPending: pool.InFlight + pool.Parked,
		})
	}
	if layout.AgentResponses {
		responder := endConsumer(Responder, "The keeper's: every end, to publish a response per agent (AGENT_RESPONSES=true).")
		// Listeners do not expect the responses of the last week at the first start.
		responder.DeliverPolicy = jetstream.DeliverNewPolicy
		all = append(all, responder)
	}
	if layout.Relay {
		all = append(all, relayConsumer())
	}
	return all
}

// endConsumer is a consumer of all ends. Each reader has its own, so that a slow
// reader delays no other.
func endConsumer(reader Reader, description string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: reader.consumer, Description: description,
		FilterSubject: events.DoneSubjects, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: announceWait, MaxDeliver: -1, MaxAckPending: readerInFlight,
	}
}

// relayConsumer starts with new ends: a new sink does not expect those of the
// last week.
func relayConsumer() jetstream.ConsumerConfig {
	relay := endConsumer(Relay, "The relay's: every end, to be posted to K_SINK.")
	relay.DeliverPolicy = jetstream.DeliverNewPolicy
	relay.AckWait, relay.MaxAckPending = relayWait, relayInFlight
	return relay
}

// ackWait is how long a worker of a pool may hold a deliberation without an
// extension before it is redelivered.
func ackWait(inFlight int) time.Duration {
	return min(max(minAckWait, time.Duration(inFlight)*ackWaitEach), maxAckWait)
}

// deleteResponder deletes the Responder's consumer, and with it its position: it
// starts with new ends when it is switched on again. It is safe to repeat.
func (j *Journal) deleteResponder(ctx context.Context) error {
	err := j.js.DeleteConsumer(ctx, j.name(Stream), Responder.consumer)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return j.refused("delete the consumer "+Responder.consumer, err)
	}
	return nil
}
