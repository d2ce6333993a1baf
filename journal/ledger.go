package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

const snapshotKey = "snapshot"

// heartbeat is how often the server says that a consumer lives; one that is
// silent for twice as long is made anew.
const heartbeat = 2 * time.Second

// Ledger returns the ledger as of the last snapshot, to CatchUp or Follow
// from. revision is what SaveSnapshot compares with. Where the snapshot is of
// another journal, what there is now is counted from its beginning.
func (j *Journal) Ledger(ctx context.Context) (ledger *deliberation.Ledger, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	for seen := uint64(0); ; seen = revision {
		var snapshot *pb.StatsSnapshot
		if snapshot, revision, err = j.snapshot(ctx); err != nil {
			return nil, 0, err
		}
		if err := j.inline(ctx, snapshot); err != nil {
			return nil, 0, err
		}
		if snapshot.GetOpenRef() == "" {
			ledger, err := j.ledgerOf(ctx, snapshot)
			return ledger, revision, err
		}
		// Its object went when a newer one was saved: read that. Where none was,
		// it is lost or damaged, and deadlines must hold all the same.
		if seen == revision {
			j.unreadable.note(j.log, "the statistics' snapshot", errCorrupt)
			ledger, err := j.ledgerOf(ctx, &pb.StatsSnapshot{})
			return ledger, revision, err
		}
	}
}

// ledgerOf starts a ledger from a snapshot. A journal is known by when it was
// made: a leader that was paused may tell an older end of the same one.
func (j *Journal) ledgerOf(ctx context.Context, snapshot *pb.StatsSnapshot) (*deliberation.Ledger, error) {
	info, err := j.info(ctx)
	if err != nil {
		return nil, err
	}
	ledger := deliberation.NewLedger(snapshot)
	made := ledger.Created()
	switch behind := info.State.LastSeq < ledger.Sequence(); {
	case !made.IsZero() && !made.Equal(info.Created), made.IsZero() && behind:
		j.log.Warn("the statistics' snapshot is of another journal; counting anew",
			"snapshot", ledger.Sequence(), "journal", info.State.LastSeq)
		ledger = deliberation.NewLedger(nil)
	case behind:
		if err := j.requireQuorum(ctx); err != nil {
			return nil, err
		}
		j.log.Warn("the journal has lost its end; counting on from there",
			"snapshot", ledger.Sequence(), "journal", info.State.LastSeq)
		ledger.Resume(info.State.LastSeq)
	case ledger.Sequence()+1 < info.State.FirstSeq:
		j.log.Warn("the journal has lost messages that no statistics have counted",
			"snapshot", ledger.Sequence(), "first", info.State.FirstSeq)
	}
	if info.State.FirstSeq > ledger.Sequence()+1 {
		ledger.Resume(info.State.FirstSeq - 1)
	}
	ledger.Of(info.Created)
	return ledger, nil
}

// snapshot reads the snapshot as it is stored; an empty one of revision 0
// where there is none.
func (j *Journal) snapshot(ctx context.Context) (*pb.StatsSnapshot, uint64, error) {
	snapshot := &pb.StatsSnapshot{}
	bucket, err := j.js.KeyValue(ctx, j.name(Statistics))
	if err != nil {
		return nil, 0, j.failed("reach the bucket "+j.name(Statistics), err)
	}
	value, err := bucket.Get(ctx, snapshotKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return snapshot, 0, nil
	}
	if err != nil {
		return nil, 0, j.failed("read the statistics' snapshot", err)
	}
	if err := proto.Unmarshal(value.Value(), snapshot); err != nil {
		j.unreadable.note(j.log, "the statistics' snapshot", err)
		return &pb.StatsSnapshot{}, value.Revision(), nil // the journal is counted anew
	}
	return snapshot, value.Revision(), nil
}

// SaveSnapshot stores a snapshot if the one of revision is still the last;
// saved is false where another keeper was faster.
func (j *Journal) SaveSnapshot(ctx context.Context, snapshot *pb.StatsSnapshot, revision uint64) (newRevision uint64, saved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	// Looked at before the open list spills: a snapshot that cannot be saved
	// must not leave an object behind.
	before, existing, err := j.snapshot(ctx)
	if err != nil || existing != revision {
		return revision, false, err
	}
	light, err := j.offloadIfLarge(ctx, snapshot)
	if err != nil {
		return revision, false, err
	}
	newRevision, err = j.putSnapshot(ctx, light, revision)
	if errors.Is(err, errExists) {
		return revision, false, nil
	}
	if err != nil {
		return revision, false, err
	}
	if before.GetOpenRef() != light.(*pb.StatsSnapshot).GetOpenRef() {
		j.dropObject(ctx, before.GetOpenRef())
	}
	return newRevision, true, nil
}

func (j *Journal) putSnapshot(ctx context.Context, snapshot proto.Message, revision uint64) (uint64, error) {
	data, err := proto.Marshal(snapshot)
	if err != nil {
		return 0, fmt.Errorf("marshal the statistics' snapshot: %w", err)
	}
	bucket, err := j.js.KeyValue(ctx, j.name(Statistics))
	if err != nil {
		return 0, j.failed("reach the bucket "+j.name(Statistics), err)
	}
	revision, err = bucket.Update(ctx, snapshotKey, data, revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) || inFlight(err) {
		return 0, errExists
	}
	if err != nil {
		return 0, j.failed("store the statistics' snapshot", err)
	}
	return revision, nil
}

// CatchUp folds into a ledger all that the journal held when it was called.
// The leader says how far that is. Unavailable, until the caller asks for the
// Ledger again: the ledger is of another journal, or the journal has lost what it
// has not folded. One that takes too long is Unavailable too, and goes on from
// where it was when it is called again.
func (j *Journal) CatchUp(ctx context.Context, ledger *deliberation.Ledger) error {
	ctx, cancel := context.WithTimeout(ctx, 6*j.wait)
	defer cancel()
	info, err := j.info(ctx)
	if err != nil {
		return err
	}
	if err := suits(ledger, info); err != nil {
		return err
	}
	ledger.Of(info.Created)
	target, err := j.lastSequence(ctx, info, ledger.Sequence())
	if err != nil {
		return err
	}
	if target > ledger.Sequence() {
		err = j.follow(ctx, ledger.Sequence()+1, func(mark deliberation.Mark) bool {
			ledger.Apply(mark)
			return mark.Sequence < target
		})
	}
	if err == nil {
		ledger.ForgetBefore(info.State.FirstSeq)
	}
	return err
}

// suits reports whether a ledger goes on with the journal. One that belongs to
// none yet counts what there is.
func suits(ledger *deliberation.Ledger, info *jetstream.StreamInfo) error {
	created := ledger.Created()
	switch {
	case info.State.LastSeq < ledger.Sequence(), !created.IsZero() && !created.Equal(info.Created):
		return unavailable("statistics", "the journal was made anew; try again", deliberation.ErrOtherLedger)
	case !created.IsZero() && ledger.Sequence()+1 < info.State.FirstSeq:
		return unavailable("statistics", "the journal has lost what was not counted here; try again", deliberation.ErrOtherLedger)
	default:
		return nil
	}
}

// lastSequence returns the sequence of the last message that stands, from the
// leader; or any up to have, where nothing stands behind it.
func (j *Journal) lastSequence(ctx context.Context, info *jetstream.StreamInfo, have uint64) (uint64, error) {
	if info.State.Msgs == 0 || info.State.LastSeq <= have {
		return 0, nil
	}
	if info.State.NumDeleted == 0 {
		return info.State.LastSeq, nil
	}
	// Somebody deleted messages: seldom the last one, which is found at once.
	message, err := j.get(ctx, getRequest{Sequence: info.State.LastSeq})
	if err == nil && message == nil {
		message, err = j.last(ctx, events.JournalSubjects) // the server searches long for this
	}
	if err != nil || message == nil {
		return 0, err
	}
	return message.Sequence, nil
}

// Follow tells every mark from a sequence on, in order, until ctx ends or NATS
// is away.
func (j *Journal) Follow(ctx context.Context, from uint64, apply func(deliberation.Mark)) error {
	return j.follow(ctx, from, func(mark deliberation.Mark) bool {
		apply(mark)
		return true
	})
}

// follow reads marks by an ordered consumer, headers alone, until more says
// no. It has no filter: to count what passes one costs the server more than to
// send all the headers.
func (j *Journal) follow(ctx context.Context, from uint64, more func(deliberation.Mark) bool) error {
	consumer, err := j.js.OrderedConsumer(ctx, j.name(Stream), jetstream.OrderedConsumerConfig{
		HeadersOnly: true, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		// While the client mends a consumer it does not hear of ctx: the caller
		// tries again instead.
		InactiveThreshold: 5 * heartbeat, MaxResetAttempts: 1,
	})
	if err != nil {
		return j.failed("read the journal", err)
	}
	defer j.dropConsumer(consumer)
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000), jetstream.PullHeartbeat(heartbeat))
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

// dropConsumer has the server forget a consumer, which the client leaves behind:
// by default a stream has no more than 1,000. Nobody waits for the answer; what
// does not arrive, the inactivity makes good.
func (j *Journal) dropConsumer(consumer jetstream.Consumer) {
	if info := consumer.CachedInfo(); info != nil {
		_ = j.conn.Publish("$JS.API.CONSUMER.DELETE."+j.name(Stream)+"."+info.Name, nil)
	}
}

// markOf reads a mark. What does not belong in the journal is one without a
// kind, which no ledger counts.
func markOf(message jetstream.Msg) (deliberation.Mark, error) {
	metadata, err := message.Metadata()
	if err != nil {
		return deliberation.Mark{}, fmt.Errorf("read a journal message's metadata: %w", err)
	}
	mark := deliberation.Mark{Sequence: metadata.Sequence.Stream, Time: metadata.Timestamp}
	mark.Kind, mark.Qualifier, mark.DeliberationID, _ = events.ParseSubject(message.Subject())
	if mark.Kind == deliberation.KindRequested {
		mark.Timeout = events.Timeout(message.Headers())
	}
	return mark, nil
}
