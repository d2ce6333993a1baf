package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// snapshotKey is the only key of the bucket.
const snapshotKey = "snapshot"

// The ledger is the fold of the whole journal: the statistics and the open
// deliberations. It starts from a snapshot in a bucket and applies the marks
// that come after it. The journal's sequence numbers order all marks, and a mark is
// applied once: the ledger ignores a sequence that is not above its own.
//
// The journal may have been deleted and created again, or restored from an older
// backup. So a ledger records when its journal was created, and it is only
// continued with a journal of the same creation time.

// heartbeat is the interval of the server's heartbeats to a consumer; one that is
// silent for twice as long is created again.
const heartbeat = 2 * time.Second

// Ledger returns the ledger of the last snapshot, from which CatchUp or Follow
// continue. revision identifies the snapshot for SaveSnapshot. If the snapshot
// belongs to another journal, the ledger is empty and starts at the beginning of
// this one.
func (j *Journal) Ledger(ctx context.Context) (ledger *deliberation.Ledger, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	for seen := uint64(0); ; seen = revision {
		var data []byte
		var complete bool
		if data, revision, err = j.snapshot(ctx); err != nil {
			return nil, 0, err
		}
		if data, complete, err = j.completeSnapshot(ctx, data); err != nil {
			return nil, 0, err
		}
		if complete {
			ledger, err := deliberation.DecodeLedger(data)
			if err != nil {
				j.unreadable.note(j.log, "the statistics' snapshot", err)
				ledger = deliberation.NewLedger(nil) // the journal is counted from its beginning
			}
			ledger, err = j.adjust(ctx, ledger)
			return ledger, revision, err
		}
		// The snapshot's object could not be read. Another keeper may have saved a
		// newer snapshot meanwhile and deleted this object: read again. If the
		// revision is the same, the object is lost or damaged. Then the journal is
		// counted from its beginning, because deadlines must hold all the same.
		if seen == revision {
			j.unreadable.note(j.log, "the statistics' snapshot", errCorrupt)
			ledger, err := j.adjust(ctx, deliberation.NewLedger(nil))
			return ledger, revision, err
		}
	}
}

// adjust adjusts the ledger of a snapshot to the journal.
//
// A snapshot of another creation time is discarded. A snapshot that is ahead of
// the same journal is more difficult: the leader may have been paused and lag, or
// the journal may have lost its last messages. Only a leader with a quorum
// decides for the latter. Snapshots of older versions have no creation time; for
// them being ahead decides.
func (j *Journal) adjust(ctx context.Context, ledger *deliberation.Ledger) (*deliberation.Ledger, error) {
	info, err := j.info(ctx)
	if err != nil {
		return nil, err
	}
	created := ledger.Created()
	switch behind := info.State.LastSeq < ledger.Sequence(); {
	case !created.IsZero() && !created.Equal(info.Created), created.IsZero() && behind:
		// The statistics of the deleted journal are lost with it.
		j.log.Warn("the statistics' snapshot belongs to another journal; counting from the beginning",
			"snapshot", ledger.Sequence(), "journal", info.State.LastSeq)
		ledger = deliberation.NewLedger(nil)
	case behind:
		if err := j.requireQuorum(ctx); err != nil {
			return nil, err
		}
		j.log.Warn("the journal has lost its last messages; continuing from its last sequence",
			"snapshot", ledger.Sequence(), "journal", info.State.LastSeq)
		ledger.Resume(info.State.LastSeq)
	case ledger.Sequence()+1 < info.State.FirstSeq:
		j.log.Warn("the journal has lost messages that the statistics have not counted",
			"snapshot", ledger.Sequence(), "first", info.State.FirstSeq)
	}
	// Messages before the first sequence cannot be counted any more. Their open
	// deliberations remain in the ledger until ForgetBefore.
	if info.State.FirstSeq > ledger.Sequence()+1 {
		ledger.Resume(info.State.FirstSeq - 1)
	}
	ledger.SetCreated(info.Created)
	return ledger, nil
}

// snapshot reads the stored snapshot; nothing of revision 0 if there is none.
func (j *Journal) snapshot(ctx context.Context) (data []byte, revision uint64, err error) {
	bucket, err := j.js.KeyValue(ctx, j.name(Statistics))
	if err != nil {
		return nil, 0, j.failed("reach the bucket "+j.name(Statistics), err)
	}
	value, err := bucket.Get(ctx, snapshotKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, j.failed("read the statistics' snapshot", err)
	}
	return value.Value(), value.Revision(), nil
}

// completeSnapshot returns a snapshot with its open deliberations: the data, or
// the object that it refers to. complete is false if that object cannot be read.
//
// The object does not count at the gate: it is as large as the backlog, and no
// caller chooses that. Callers read one at a time.
func (j *Journal) completeSnapshot(ctx context.Context, data []byte) (whole []byte, complete bool, err error) {
	name := deliberation.SnapshotRef(data)
	if name == "" {
		return data, true, nil
	}
	store, err := j.js.ObjectStore(ctx, j.name(Results))
	if err != nil {
		return nil, false, j.failed("reach the object store "+j.name(Results), err)
	}
	whole, err = j.getObject(ctx, store, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) || errors.Is(err, errCorrupt) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return whole, objectName(whole) == name, nil
}

// SaveSnapshot stores a snapshot if the stored one still has the given revision.
// saved is false if another keeper has stored one meanwhile: the caller loads that
// one. Unavailable: the outcome is unknown. It is safe to repeat, and then saved
// may be false for one's own snapshot.
func (j *Journal) SaveSnapshot(ctx context.Context, snapshot deliberation.Snapshot, revision uint64) (newRevision uint64, saved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	// This read comes before the offload: a snapshot that cannot be saved must not
	// leave an object behind.
	before, existing, err := j.snapshot(ctx)
	if err != nil || existing != revision {
		return revision, false, err
	}
	data, name := snapshot.Data, ""
	if len(data) > j.maxData() {
		name = objectName(data)
		if err := j.putObject(ctx, j.name(Results), jetstream.ObjectMeta{Name: name}, data); err != nil {
			return revision, false, err
		}
		data = snapshot.WithRef(name)
	}
	newRevision, err = j.putSnapshot(ctx, data, revision)
	if errors.Is(err, errExists) {
		return revision, false, nil
	}
	if err != nil {
		return revision, false, err
	}
	// The old object is deleted after the new snapshot is stored. A reader that holds
	// the old snapshot finds its object missing, and reads again; see Ledger.
	if old := deliberation.SnapshotRef(before); old != name {
		j.deleteObject(ctx, old)
	}
	return newRevision, true, nil
}

// putSnapshot stores a snapshot by compare-and-set on the revision. errExists: the
// stored one has another revision, or another update is in flight.
func (j *Journal) putSnapshot(ctx context.Context, data []byte, revision uint64) (uint64, error) {
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

// CatchUp applies all marks up to the leader's last sequence at the time of the
// call. So the ledger has every event that was acknowledged before the call.
//
// Unavailable with the cause ErrOtherLedger: the ledger belongs to another
// journal, or the journal has lost messages that it has not applied; the caller
// must load the Ledger again. Unavailable otherwise: it took too long, or NATS
// cannot be reached. It is safe to repeat, and continues after the last mark.
func (j *Journal) CatchUp(ctx context.Context, ledger *deliberation.Ledger) error {
	ctx, cancel := context.WithTimeout(ctx, 6*j.wait)
	defer cancel()
	info, err := j.info(ctx)
	if err != nil {
		return err
	}
	if err := checkContinues(ledger, info); err != nil {
		return err
	}
	ledger.SetCreated(info.Created)
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

// checkContinues is an error unless the ledger can be continued with the journal.
// A ledger without a creation time continues with any journal.
func checkContinues(ledger *deliberation.Ledger, info *jetstream.StreamInfo) error {
	created := ledger.Created()
	switch {
	case info.State.LastSeq < ledger.Sequence(), !created.IsZero() && !created.Equal(info.Created):
		return unavailable("statistics", "the journal was created again; try again", deliberation.ErrOtherLedger)
	case !created.IsZero() && ledger.Sequence()+1 < info.State.FirstSeq:
		return unavailable("statistics", "the journal has lost messages that were not counted; try again", deliberation.ErrOtherLedger)
	default:
		return nil
	}
}

// lastSequence returns the sequence of the last existing message, from the
// leader; any number up to have if no message comes after have.
//
// The stream's own last sequence does not do: the last messages may have been
// deleted, and follow would wait for them.
func (j *Journal) lastSequence(ctx context.Context, info *jetstream.StreamInfo, have uint64) (uint64, error) {
	if info.State.Msgs == 0 || info.State.LastSeq <= have {
		return 0, nil
	}
	if info.State.NumDeleted == 0 {
		return info.State.LastSeq, nil
	}
	// Messages were deleted. Usually the last one still exists.
	message, err := j.get(ctx, getRequest{Sequence: info.State.LastSeq})
	if err == nil && message == nil {
		message, err = j.last(ctx, events.JournalSubjects) // this search is expensive for the server
	}
	if err != nil || message == nil {
		return 0, err
	}
	return message.Sequence, nil
}

// Follow calls apply for every mark at or after a sequence, in the order of the
// journal, until ctx ends or NATS cannot be reached. The caller continues after
// the last mark that it has applied.
func (j *Journal) Follow(ctx context.Context, from uint64, apply func(deliberation.Mark)) error {
	return j.follow(ctx, from, func(mark deliberation.Mark) bool {
		apply(mark)
		return true
	})
}

// follow reads marks until more returns false. It uses an ordered consumer, which
// delivers without gaps and in order, and only the headers of the messages. It has
// no filter: counting the messages that pass a filter costs the server more than
// sending all headers.
func (j *Journal) follow(ctx context.Context, from uint64, more func(deliberation.Mark) bool) error {
	// An ordered consumer is ephemeral: it exists in memory, with one replica.
	consumer, err := j.js.OrderedConsumer(ctx, j.name(Stream), jetstream.OrderedConsumerConfig{
		HeadersOnly: true, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		// While nats.go resets a consumer it ignores ctx. So it resets once at
		// most, and the caller tries again.
		InactiveThreshold: 5 * heartbeat, MaxResetAttempts: 1,
	})
	if err != nil {
		return j.failed("read the journal", err)
	}
	defer j.deleteConsumer(consumer)
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
		// An ordered consumer needs no acknowledgements: the reader's position is the
		// ledger's sequence.
		mark, err := markOf(message)
		if err != nil {
			return err
		}
		if !more(mark) {
			return nil
		}
	}
}

// deleteConsumer deletes an ordered consumer, which nats.go does not: a stream has
// 1,000 consumers at most by default. It does not wait for the answer. If the
// request is lost, the server deletes the consumer after InactiveThreshold.
func (j *Journal) deleteConsumer(consumer jetstream.Consumer) {
	if info := consumer.CachedInfo(); info != nil {
		_ = j.conn.Publish("$JS.API.CONSUMER.DELETE."+j.name(Stream)+"."+info.Name, nil)
	}
}

// markOf reads a mark from a message's subject and headers. A foreign message has
// no kind: a ledger does not count it, and still advances its sequence.
func markOf(message jetstream.Msg) (deliberation.Mark, error) {
	metadata, err := message.Metadata()
	if err != nil {
		return deliberation.Mark{}, fmt.Errorf("read a journal message's metadata: %w", err)
	}
	mark := deliberation.Mark{Sequence: metadata.Sequence.Stream, Time: metadata.Timestamp}
	mark.Kind, mark.Qualifier, mark.DeliberationID, _ = events.ParseSubject(message.Subject())
	if mark.Kind == deliberation.KindRequested {
		mark.Timeout, mark.Tenant = events.Timeout(message.Headers()), events.Tenant(message.Headers())
	}
	if mark.Kind == deliberation.KindDone {
		mark.Usage, mark.Models = events.Usage(message.Headers()), events.ModelUsage(message.Headers())
	}
	return mark, nil
}
