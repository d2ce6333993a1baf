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

// errExists says that the compare-and-set found another message standing.
var errExists = errors.New("another message stands")

// Accept appends a request: it is accepted when this returns nil, nil. Where
// the id is taken it returns the record that stands, and nothing was written.
//
// LimitReached: the journal is fuller than its watermark. Unavailable: NATS
// did not answer, and the outcome is unknown; repeating is safe.
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

// recordedDespite answers a repeated request although nothing new is taken: what was
// accepted stays so.
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

// recorded reads the request that holds an id. While servers find together
// again a read may miss what stands: only what is there can settle it.
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

// requested reads the request of an id from the leader; nil where there is
// none.
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

// End appends an end and reports whether it is the one that stands: completion,
// failure and cancellation race, and the first to be stored wins. Unavailable:
// the outcome is unknown; repeating is safe.
//
// Where the object store has no room for its results it is written without them:
// the agents' records have them, and an end must always find its place.
func (j *Journal) End(ctx context.Context, id string, end proto.Message, traceParent string) (won bool, err error) {
	light, err := j.offloadIfLarge(ctx, end)
	if deliberation.AsError(err).Code == deliberation.LimitReached {
		j.log.Warn("an end is written without its results", "deliberation", id, "reason", err)
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

// shortText is what a text of a message may take that did not fit otherwise.
const shortText = 16 << 10

// confirmExists makes sure that there is something on a subject where the
// compare-and-set has found it. A leader that was cut off from the others also
// finds what it will never store, and misses what they have stored: then the
// outcome is unknown.
func (j *Journal) confirmExists(ctx context.Context, subject string) error {
	message, err := j.last(ctx, subject)
	if err == nil && message == nil {
		err = unavailable("NATS_URL", "could not append to the journal: its servers do not agree yet; repeating is safe", errExists)
	}
	return err
}

// append writes an event if nothing stands on the subjects that `free` covers,
// and returns its size in bytes.
func (j *Journal) append(ctx context.Context, event proto.Message, traceParent, free string) (int, error) {
	event, err := j.offloadIfLarge(ctx, event)
	if err != nil {
		return 0, err
	}
	size, err := j.write(ctx, event, traceParent, free)
	if err == nil || deliberation.AsError(err).Code != deliberation.TooLarge {
		return size, err
	}
	// The stream was given a lower limit than ours: what was accepted ends all
	// the same.
	light, failure := j.Offload(ctx, event)
	if failure != nil || light == event {
		return 0, err
	}
	return j.write(ctx, light, traceParent, free)
}

// write is append for an event that is light enough, as far as we know.
func (j *Journal) write(ctx context.Context, event proto.Message, traceParent, free string) (int, error) {
	encoded, err := events.Encode(event, events.Source, traceParent)
	if err != nil {
		return 0, err
	}
	message := &nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data}
	return message.Size(), j.publish(ctx, message, free)
}

// publish stores a message or returns errExists. It repeats only what was
// certainly not stored: nobody listened (a change of leader), or another
// message was in flight.
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

// inFlight reports whether a message for the same subjects is being stored
// right now: a moment later it stands or it does not.
func inFlight(err error) bool {
	return hasCode(err, jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
