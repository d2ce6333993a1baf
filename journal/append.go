package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Every append is a compare-and-set: the server stores the message only if no
// message exists on the subjects that a filter covers, in one step with the
// append. The filter says what is unique:
//
//   - a request: no event of this id at all (HistorySubject)
//   - an end: no other end of this id, of any kind (EndSubject)
//   - an agent's result: none of this agent (AgentSubject)
//
// So a repeated append never stores a second message, and the outcome of an
// append whose answer was lost is found by repeating it.

// errExists is the result of a compare-and-set that found another message.
var errExists = errors.New("another message exists")

// Accept appends a request. It returns nil, nil once the request is stored. If
// the id is in use it returns the recorded request, and stores nothing; the
// caller compares the two.
//
// LimitReached: the journal is above its watermark. Unavailable: NATS did not
// answer, and the outcome is unknown. It is safe to repeat.
func (j *Journal) Accept(ctx context.Context, record *pb.DeliberationRequested, traceParent string) (existing *pb.DeliberationRequested, err error) {
	id := record.GetDeliberationId()
	if err := j.checkCapacity(ctx, proto.Size(record) > j.maxData()); err != nil {
		return j.recordedDespite(ctx, id, err)
	}
	// Model: Submit.
	size, err := j.append(ctx, record, traceParent, events.HistorySubject(id))
	if errors.Is(err, errExists) {
		return j.recorded(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	j.capacity.add(size)
	return nil, nil
}

// recordedDespite answers a repeated request while new ones are refused: the
// first call was accepted, and the caller may have lost its answer. Without a
// recorded request it returns the refusal.
func (j *Journal) recordedDespite(ctx context.Context, id string, refusal error) (*pb.DeliberationRequested, error) {
	if deliberation.AsError(refusal).Code != deliberation.LimitReached {
		return nil, refusal
	}
	existing, err := j.requested(ctx, id)
	if err != nil || existing == nil {
		return nil, refusal
	}
	return existing, nil
}

// recorded reads the request of an id that the compare-and-set found in use.
//
// After a change of leader a read may miss a message for a moment. So a read
// that finds no request is repeated once, if another message of the id exists.
// Conflict: only later events of the id are left, and its request has expired.
func (j *Journal) recorded(ctx context.Context, id string) (*pb.DeliberationRequested, error) {
	for range 2 {
		record, err := j.requested(ctx, id)
		if err != nil || record != nil {
			return record, err
		}
		if err := j.confirmExists(ctx, events.HistorySubject(id)); err != nil {
			return nil, err
		}
	}
	return nil, &deliberation.Error{
		Code: deliberation.Conflict, Field: "deliberation_id", DeliberationID: id,
		Message: "was used by a deliberation that the journal no longer holds whole: use another id",
	}
}

// requested reads the request of an id from the leader; nil if there is none.
// The pool is a part of the subject, and a repeated request may name another
// one: the wildcard finds the request in any pool.
func (j *Journal) requested(ctx context.Context, id string) (*pb.DeliberationRequested, error) {
	message, err := j.last(ctx, events.Subject(deliberation.KindRequested, "*", id))
	if err != nil || message == nil {
		return nil, err
	}
	entry, err := j.entry(ctx, message)
	if err != nil {
		return nil, err
	}
	record, ok := entry.Event.(*pb.DeliberationRequested)
	if !ok {
		return nil, fmt.Errorf("%s is no request", message.Subject)
	}
	return record, nil
}

// End appends an end and reports whether this one is in force. Completion,
// failure and cancellation race; the first one that is stored wins, and the
// others return false. Unavailable: the outcome is unknown. It is safe to repeat,
// but a repeated call may return false for its own end.
//
// An end must always be storable, or the deliberation would stay open. If the
// object store is full, the end is stored without its results: the agents' own
// records have them. If it is too large even so, its texts are shortened.
func (j *Journal) End(ctx context.Context, id string, end proto.Message, traceParent string) (won bool, err error) {
	light, err := j.offloadIfLarge(ctx, end)
	if deliberation.AsError(err).Code == deliberation.LimitReached {
		j.log.Warn("the end is stored without its results", "deliberation", id, "reason", err)
		light, err = withoutBulk(end), nil
	}
	if err != nil {
		return false, err
	}
	_, err = j.append(ctx, light, traceParent, events.EndSubject(id))
	if deliberation.AsError(err).Code == deliberation.TooLarge {
		_, err = j.write(ctx, events.Shorten(withoutBulk(end), shortText), traceParent, events.EndSubject(id))
	}
	if errors.Is(err, errExists) {
		return false, j.confirmExists(ctx, events.EndSubject(id))
	}
	return err == nil, err
}

// shortText bounds each text of a message that is too large otherwise, in bytes.
const shortText = 16 << 10

// confirmExists confirms a lost compare-and-set by reading a message on its
// subject from the leader. Unavailable: there is none.
//
// A leader that a partition has cut off rejects an append because of a message
// that it has received but will never commit. Its refusal alone must not be
// reported as "another end is in force".
func (j *Journal) confirmExists(ctx context.Context, subject string) error {
	message, err := j.last(ctx, subject)
	if err == nil && message == nil {
		err = unavailable("NATS_URL", "could not append to the journal: its servers do not agree yet; repeating is safe", errExists)
	}
	return err
}

// append stores an event if no message exists on the subjects that free covers,
// and returns the message's size in bytes.
func (j *Journal) append(ctx context.Context, event proto.Message, traceParent, free string) (int, error) {
	event, err := j.offloadIfLarge(ctx, event)
	if err != nil {
		return 0, err
	}
	size, err := j.write(ctx, event, traceParent, free)
	if err == nil || deliberation.AsError(err).Code != deliberation.TooLarge {
		return size, err
	}
	// An operator has given the stream or the server a lower limit than ours.
	// Offloading the field makes the message fit all the same.
	light, failure := j.Offload(ctx, event)
	if failure != nil || light == event {
		return 0, err
	}
	return j.write(ctx, light, traceParent, free)
}

// write is append without offloading.
func (j *Journal) write(ctx context.Context, event proto.Message, traceParent, free string) (int, error) {
	encoded, err := events.Encode(event, events.Source, traceParent)
	if err != nil {
		return 0, err
	}
	message := &nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data}
	return message.Size(), j.publish(ctx, message, free)
}

// publish stores a message by compare-and-set, or returns errExists.
//
// The expected last sequence 0 means "no message on the subjects of free". It
// repeats only after an answer that says that nothing was stored and that may
// change: another message for the same subjects is in flight. A timeout is not
// repeated here, as the message may be stored; the caller decides. nats.go itself
// repeats if nobody listens, which is the case between two leaders.
func (j *Journal) publish(ctx context.Context, message *nats.Msg, free string) error {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		_, err := j.js.PublishMsg(ctx, message, jetstream.WithExpectLastSequenceForSubject(0, free))
		if err != nil && !inFlight(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 2 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 200 * time.Millisecond,
	}), backoff.WithMaxElapsedTime(j.wait))
	switch {
	case err == nil:
		return nil
	case hasCode(err, jetstream.JSErrCodeStreamWrongLastSequence):
		return errExists
	default:
		return j.failed("append to the journal", err)
	}
}

// inFlight reports whether the server is storing a message for the same subjects
// at this moment: it has proposed the message and not yet committed it. The
// next attempt finds that it exists, or that it does not.
func inFlight(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
