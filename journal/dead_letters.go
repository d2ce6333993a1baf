package journal

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// A dead letter is a deliberation that ended because five workers were lost with
// it. Its whole history is copied to an object store without an age, where it waits
// for a person, even after the journal has expired it.

// DeadLetterBucket is the object store of the dead letters. Each is one object,
// under its id, so that it fits at any size, and can be read without the
// journal.
const DeadLetterBucket = "DEAD_DELIBERATIONS"

// Metadata of an object, which a list shows without reading the object.
const (
	metaTask     = "task_id"
	metaPool     = "pool"
	metaAttempts = "attempts"
	metaEnded    = "ended_at"
	metaReason   = "reason"
)

// DeadLetterSummary is a dead letter in a list.
type DeadLetterSummary struct {
	ID       string    `json:"deliberation_id"`
	TaskID   string    `json:"task_id"`
	Pool     string    `json:"pool"`
	Attempts int       `json:"attempts"`
	Ended    time.Time `json:"ended_at"`
	Reason   string    `json:"reason"`
}

// DeadLetter is a dead letter: the request, and the status at its end.
type DeadLetter struct {
	Request *pb.ExecuteDeliberationRequest
	Status  *pb.GetDeliberationStatusResponse
}

// deadDocument is an object's content. It is proto3 JSON, so that a person can read
// it with the nats CLI.
type deadDocument struct {
	Request json.RawMessage `json:"request"`
	Status  json.RawMessage `json:"status"`
}

// MarshalJSON implements json.Marshaler.
func (d DeadLetter) MarshalJSON() ([]byte, error) {
	request, err := events.MarshalJSON(d.Request)
	if err != nil {
		return nil, err
	}
	status, err := events.MarshalJSON(d.Status)
	if err != nil {
		return nil, err
	}
	return json.Marshal(deadDocument{Request: request, Status: status})
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *DeadLetter) UnmarshalJSON(data []byte) error {
	var document deadDocument
	if err := json.Unmarshal(data, &document); err != nil {
		return err
	}
	d.Request, d.Status = &pb.ExecuteDeliberationRequest{}, &pb.GetDeliberationStatusResponse{}
	for raw, into := range map[*json.RawMessage]proto.Message{&document.Request: d.Request, &document.Status: d.Status} {
		if err := events.UnmarshalJSON(*raw, into); err != nil {
			return err
		}
	}
	return nil
}

// StoreDeadLetter stores a dead letter. An existing one remains as it is: a
// deliberation has one end, so both are the same. It is safe to repeat.
// LimitReached: the bucket is full.
func (j *Journal) StoreDeadLetter(ctx context.Context, history *deliberation.History) error {
	id := history.Requested.GetDeliberationId()
	data, err := json.Marshal(DeadLetter{Request: history.Requested.GetRequest(), Status: history.Status(id)})
	if err != nil {
		return fmt.Errorf("store the dead letter %s: %w", id, err)
	}
	err = j.putObject(ctx, j.name(DeadLetterBucket), jetstream.ObjectMeta{Name: id, Metadata: map[string]string{
		metaTask: history.Requested.GetTaskId(), metaPool: history.Requested.GetPool(),
		metaAttempts: strconv.Itoa(int(history.Attempts)), metaReason: oneLine(history.Reason),
		metaEnded: history.Ended.UTC().Format(time.RFC3339Nano),
	}}, data)
	if deliberation.AsError(err).Code == deliberation.LimitReached {
		j.deleteDeadLetterName(ctx, id)
		return fullOf(j.name(DeadLetterBucket), "retry some of `ray-executor dead list`, or raise JOURNAL_MAX_BYTES and deploy", err)
	}
	return err
}

// deleteDeadLetterName deletes the name of an object whose parts were refused: a
// name may have been stored although the bucket was full for the parts. It may also
// delete the name that another keeper has stored at the same moment. Nothing is
// lost by that: the end is redelivered until StoreDeadLetter succeeds.
func (j *Journal) deleteDeadLetterName(ctx context.Context, id string) {
	stream, err := j.js.Stream(ctx, objectStream(j.name(DeadLetterBucket)))
	if err == nil {
		name := base64.URLEncoding.EncodeToString([]byte(id))
		err = stream.Purge(ctx, jetstream.WithPurgeSubject("$O."+j.name(DeadLetterBucket)+".M."+name))
	}
	if err != nil {
		j.log.Debug("could not delete a name from "+j.name(DeadLetterBucket), "deliberation", id, "error", err)
	}
}

// ListDeadLetters lists the dead letters, each by its metadata alone.
func (j *Journal) ListDeadLetters(ctx context.Context) ([]DeadLetterSummary, error) {
	store, err := j.js.ObjectStore(ctx, j.name(DeadLetterBucket))
	if err != nil {
		return nil, j.failed("reach the object store "+j.name(DeadLetterBucket), err)
	}
	objects, err := store.List(ctx)
	if errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, nil
	}
	if err != nil {
		return nil, j.failed("list the dead letters", err)
	}
	list := make([]DeadLetterSummary, len(objects))
	for i, object := range objects {
		list[i] = DeadLetterSummary{
			ID: object.Name, TaskID: object.Metadata[metaTask], Pool: object.Metadata[metaPool], Reason: object.Metadata[metaReason],
		}
		// These two are for display only: a value that cannot be read is left out.
		list[i].Attempts, _ = strconv.Atoi(object.Metadata[metaAttempts])
		list[i].Ended, _ = time.Parse(time.RFC3339Nano, object.Metadata[metaEnded])
	}
	return list, nil
}

// ReadDeadLetter reads a dead letter; NotFound if there is none of this id.
func (j *Journal) ReadDeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	var letter DeadLetter
	data, err := j.getCounted(ctx, j.name(DeadLetterBucket), id)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return letter, &deliberation.Error{
			Code: deliberation.NotFound, Field: "deliberation_id", DeliberationID: id,
			Message: "no dead letter has the id " + strconv.Quote(id) + ": see `ray-executor dead list`",
		}
	}
	if err != nil {
		return letter, err
	}
	if err := json.Unmarshal(data, &letter); err != nil {
		return letter, fmt.Errorf("read the dead letter %s: %w", id, err)
	}
	return letter, nil
}

// DeleteDeadLetter deletes a dead letter that has been submitted again. It is safe
// to repeat.
func (j *Journal) DeleteDeadLetter(ctx context.Context, id string) error {
	store, err := j.js.ObjectStore(ctx, j.name(DeadLetterBucket))
	if err == nil {
		err = store.Delete(ctx, id)
	}
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return j.failed("delete "+id+" from "+j.name(DeadLetterBucket), err)
	}
	return nil
}
