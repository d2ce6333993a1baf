package journal

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of this connection, to be registered by its owner.
func (j *Journal) Metrics() []prometheus.Collector {
	return []prometheus.Collector{j.unreadable.count, j.terminated, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ray_executor_nats_connected", Help: "1 while this process is connected to NATS, else 0.",
	}, func() float64 {
		if j.conn.IsConnected() {
			return 1
		}
		return 0
	})}
}

// Fill is what is stored on the server at a moment.
type Fill struct {
	// Bytes and Messages are those of the journal. A limit of -1 is none.
	Bytes, MaxBytes       int64
	Messages, MaxMessages int64
	// Dead counts the dead letters, Undelivered the undelivered ends.
	Dead, Undelivered int64

	letters uint64 // the last sequence of the dead letters' bucket
	deleted int    // and how many of its messages are deleted
}

// Fill reads what is stored. before is the result of the last call: the dead letters
// are counted again only if their bucket has changed.
func (j *Journal) Fill(ctx context.Context, before Fill) (Fill, error) {
	info, err := j.info(ctx)
	if err != nil {
		return before, err
	}
	fill := Fill{
		Bytes: int64(info.State.Bytes), MaxBytes: info.Config.MaxBytes,
		Messages: int64(info.State.Msgs), MaxMessages: info.Config.MaxMsgs,
	}
	if err := j.countDead(ctx, &fill, before); err != nil {
		return before, err
	}
	undelivered, err := j.js.Stream(ctx, j.name(UndeliveredStream))
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound): // no relay has run yet
	case err != nil:
		return before, j.failed("read the stream "+j.name(UndeliveredStream), err)
	default:
		fill.Undelivered = int64(undelivered.CachedInfo().State.Msgs)
	}
	return fill, nil
}

// countDead counts the dead letters. Each has one subject for its parts, which is gone
// when it is deleted. A consumer counts subjects on the server, so that nothing as
// large as their list is sent.
func (j *Journal) countDead(ctx context.Context, fill *Fill, before Fill) error {
	bucket := j.name(DeadLetterBucket)
	failed := func(err error) error { return j.failed("count the dead letters of "+bucket, err) }
	stream, err := j.js.Stream(ctx, objectStream(bucket))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // an older version deployed the journal
	}
	if err != nil {
		return failed(err)
	}
	state := stream.CachedInfo().State
	fill.letters, fill.deleted, fill.Dead = state.LastSeq, state.NumDeleted, before.Dead
	if state.Msgs == 0 {
		fill.Dead = 0
		return nil
	}
	if fill.letters == before.letters && fill.deleted == before.deleted {
		return nil
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: "$O." + bucket + ".C.>", DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true, MemoryStorage: true, Replicas: 1, InactiveThreshold: 5 * heartbeat,
	})
	if err != nil {
		return failed(err)
	}
	fill.Dead = int64(consumer.CachedInfo().NumPending)
	// If it is not deleted now, the server does so after InactiveThreshold.
	_ = stream.DeleteConsumer(ctx, consumer.CachedInfo().Name)
	return nil
}
