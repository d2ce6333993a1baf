package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

const snapshotKey = "snapshot"

// markSubjects are what a ledger folds: of agents it needs nothing.
var markSubjects = []string{"deliberation.requested.*.*", "deliberation.started.*.*", "deliberation.done.*.*"}

// Ledger returns the ledger as of the last snapshot, to CatchUp or Follow
// from. revision is what SaveSnapshot compares with.
func (j *Journal) Ledger(ctx context.Context) (ledger *deliberation.Ledger, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	bucket, err := j.js.KeyValue(ctx, Statistics)
	if err != nil {
		return nil, 0, j.failed("reach the bucket "+Statistics, err)
	}
	value, err := bucket.Get(ctx, snapshotKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return deliberation.NewLedger(nil), 0, nil
	}
	if err != nil {
		return nil, 0, j.failed("read the statistics' snapshot", err)
	}
	var snapshot pb.StatsSnapshot
	if err := proto.Unmarshal(value.Value(), &snapshot); err != nil {
		return nil, 0, fmt.Errorf("read the statistics' snapshot: %w", err)
	}
	if err := j.restore(ctx, &snapshot); err != nil {
		return nil, 0, err
	}
	return deliberation.NewLedger(&snapshot), value.Revision(), nil
}

// SaveSnapshot stores a snapshot if the one of revision is still the last;
// saved is false where another keeper was faster.
func (j *Journal) SaveSnapshot(ctx context.Context, snapshot *pb.StatsSnapshot, revision uint64) (newRevision uint64, saved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	light, err := j.spill(ctx, snapshot)
	if err != nil {
		return revision, false, err
	}
	data, err := proto.Marshal(light)
	if err != nil {
		return revision, false, fmt.Errorf("marshal the statistics' snapshot: %w", err)
	}
	bucket, err := j.js.KeyValue(ctx, Statistics)
	if err != nil {
		return revision, false, j.failed("reach the bucket "+Statistics, err)
	}
	newRevision, err = bucket.Update(ctx, snapshotKey, data, revision)
	if hasCode(err, jetstream.JSErrCodeStreamWrongLastSequence) || inFlight(err) {
		return revision, false, nil
	}
	if err != nil {
		return revision, false, j.failed("store the statistics' snapshot", err)
	}
	return newRevision, true, nil
}

// CatchUp folds into a ledger all that the journal held when it was called.
// The leader says how far that is.
func (j *Journal) CatchUp(ctx context.Context, ledger *deliberation.Ledger) error {
	ctx, cancel := context.WithTimeout(ctx, 6*j.wait)
	defer cancel()
	target, err := j.lastMark(ctx)
	if err != nil || target <= ledger.Sequence() {
		return err
	}
	return j.follow(ctx, ledger.Sequence()+1, func(mark deliberation.Mark) bool {
		ledger.Apply(mark)
		return mark.Sequence < target
	})
}

// lastMark returns the sequence of the last mark, from the leader.
func (j *Journal) lastMark(ctx context.Context) (uint64, error) {
	var last uint64
	for _, subject := range markSubjects {
		message, err := j.last(ctx, subject)
		if err != nil {
			return 0, err
		}
		if message != nil {
			last = max(last, message.Sequence)
		}
	}
	return last, nil
}

// Follow tells every mark from a sequence on, in order, until ctx ends.
func (j *Journal) Follow(ctx context.Context, from uint64, apply func(deliberation.Mark)) error {
	return j.follow(ctx, from, func(mark deliberation.Mark) bool {
		apply(mark)
		return true
	})
}

// follow reads marks by an ordered consumer, headers alone, until more says
// no.
func (j *Journal) follow(ctx context.Context, from uint64, more func(deliberation.Mark) bool) error {
	consumer, err := j.js.OrderedConsumer(ctx, Stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: markSubjects, HeadersOnly: true,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return j.failed("read the journal", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		return j.failed("read the journal", err)
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return j.failed("read the journal", err)
		}
		mark, err := markOf(message)
		if err != nil {
			return err
		}
		if !more(mark) {
			return nil
		}
	}
}

func markOf(message jetstream.Msg) (deliberation.Mark, error) {
	metadata, err := message.Metadata()
	if err != nil {
		return deliberation.Mark{}, fmt.Errorf("read a journal message's metadata: %w", err)
	}
	kind, qualifier, id, ok := events.ParseSubject(message.Subject())
	if !ok {
		return deliberation.Mark{}, fmt.Errorf("subject %q does not belong in the journal", message.Subject())
	}
	mark := deliberation.Mark{
		Sequence: metadata.Sequence.Stream, Time: metadata.Timestamp,
		Kind: kind, Qualifier: qualifier, DeliberationID: id,
	}
	if kind == deliberation.KindRequested {
		mark.Timeout = events.Timeout(message.Headers())
	}
	return mark, nil
}
