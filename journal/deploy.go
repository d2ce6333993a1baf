package journal

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"
)

// Deployment is in the files deploy*.go. Deploy is the entry point: it lists what
// a layout needs (deploy_streams.go, deploy_consumers.go), checks that against
// what exists (deploy_check.go), creates or updates the rest, and explains a
// refusal of the server (deploy_errors.go).

const (
	// deployWait bounds one attempt, which is some ten requests.
	deployWait = 10 * time.Second
	// deployPatience bounds all attempts together.
	deployPatience = 3 * time.Minute
)

// Pool is a queue of deliberations; each one has a consumer.
type Pool struct {
	Name string
	// InFlight is how many of its agents may be in flight in all clusters.
	InFlight int
	// Parked is how many of its agents may wait for model servers besides. Workers
	// hold at most InFlight + Parked of its deliberations at once.
	Parked int
}

// Layout is what Deploy creates.
type Layout struct {
	Pools []Pool
	// Replicas of every stream: 1, 3 or 5.
	Replicas int
	// MaxAge is how long the journal retains a deliberation.
	MaxAge time.Duration
	// MaxBytes bounds the journal's size; -1 for no limit.
	MaxBytes int64
	// MaxMessages bounds the number of messages in the journal, and with it the
	// server's memory; 0 or -1 for no limit.
	MaxMessages int64
	// AgentResponses creates what the Responder needs. False deletes its
	// consumer, so that it starts with new ends when it is switched on again.
	AgentResponses bool
	// Relay creates what the relay needs. False deletes nothing: a sink may be
	// bound to a relay that this deployment is not aware of.
	Relay bool
}

// Deploy creates the streams, buckets and consumers, or updates their settings.
// It is safe to repeat, and to run while deliberations are in progress. If a
// stream of another owner is in conflict, nothing is created.
//
// In a cluster of servers one of two concurrent creations of a stream gets no
// answer, and so does a request before a leader is elected. Deploy repeats both
// for three minutes at most, and logs the reason. An error that no waiting
// resolves is returned at once; see Permanent.
func (j *Journal) Deploy(ctx context.Context, layout Layout) error {
	if err := j.Reach(ctx); err != nil {
		return err
	}
	ctx, stop := j.whilePermitted(ctx)
	defer stop()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		attempt, cancel := context.WithTimeout(ctx, deployWait)
		defer cancel()
		err := j.deploy(attempt, layout)
		if err != nil && !transient(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(deployPatience), backoff.WithNotify(func(err error, _ time.Duration) {
		j.log.Warn("NATS is not ready for the deployment; trying again", "reason", err)
	}))
	if cause := context.Cause(ctx); err != nil && cause != nil && !Permanent(err) {
		return j.failed("deploy", cause)
	}
	return err
}

// deploy is one attempt. The check comes first, so that a conflict leaves
// nothing half done. Every step after it is a create-or-update, so that a
// repeated attempt continues where this one failed.
func (j *Journal) deploy(ctx context.Context, layout Layout) error {
	layout.MaxMessages = j.messageLimit(ctx, layout.MaxMessages)
	missing, err := j.check(ctx, j.requirements(layout))
	if err != nil {
		return err
	}
	for _, required := range missing {
		if err := required.create(ctx); err != nil {
			return j.refused("create the "+required.what, err)
		}
	}
	for _, consumer := range consumers(layout) {
		if _, err := j.js.CreateOrUpdateConsumer(ctx, j.name(Stream), consumer); err != nil {
			return j.refused("create the consumer "+consumer.Durable, err)
		}
	}
	if !layout.AgentResponses {
		return j.deleteResponder(ctx)
	}
	return nil
}

// messageLimit returns the limit of messages to set: the wanted one, or more
// if the journal holds so many that accepted deliberations could not end.
//
// A journal above its watermark accepts no request, but it must not be full: the
// existing messages are 80 % of the returned limit at the most. The next
// deployment lowers the limit again as messages expire.
func (j *Journal) messageLimit(ctx context.Context, wanted int64) int64 {
	stream, err := j.js.Stream(ctx, j.name(Stream))
	if err != nil || wanted <= 0 {
		return wanted // the stream does not exist yet, or its creation reports why
	}
	least := int64(stream.CachedInfo().State.Msgs) * 5 / 4
	if least > wanted {
		j.log.Warn("the journal holds more than JOURNAL_MAX_MESSAGES allows; accepted deliberations end, new requests are refused until messages expire",
			"messages", stream.CachedInfo().State.Msgs, "JOURNAL_MAX_MESSAGES", wanted)
	}
	return max(wanted, least)
}

// PrepareRelay creates what the relay needs if it does not exist: a sink may be
// bound to a relay without a deployment. It changes nothing that exists, for
// the settings of Deploy take precedence. It is safe to repeat.
func (j *Journal) PrepareRelay(ctx context.Context, layout Layout) error {
	undelivered := j.undeliveredStream(layout)
	_, err := j.js.Stream(ctx, undelivered.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = j.js.CreateOrUpdateStream(ctx, undelivered)
	}
	if err != nil {
		return j.refused("create the stream "+undelivered.Name, err)
	}
	_, err = j.js.Consumer(ctx, j.name(Stream), Relay.consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = j.js.CreateOrUpdateConsumer(ctx, j.name(Stream), relayConsumer())
	}
	if err != nil {
		return j.refused("create the consumer "+Relay.consumer, err)
	}
	return nil
}
