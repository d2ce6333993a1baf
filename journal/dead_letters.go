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

// DeadLetterBucket is the object store of deliberations that were given up because
// too many workers were lost with them. An object a deliberation, under its id, so that
// it is whole however large it is, and can be read without the journal.
const DeadLetterBucket = "DEAD_DELIBERATIONS"

// What a list tells of an object without reading it.
const (
	metaTask     = "task_id"
	metaPool     = "pool"
	metaAttempts = "attempts"
	metaEnded    = "ended_at"
	metaReason   = "reason"
)

// DeadLetterSummary is what a list tells of a deliberation that was given up.
type DeadLetterSummary struct {
	ID       string    `json:"deliberation_id"`
	TaskID   string    `json:"task_id"`
	Pool     string    `json:"pool"`
	Attempts int       `json:"attempts"`
	Ended    time.Time `json:"ended_at"`
	Reason   string    `json:"reason"`
}

// DeadLetter is a deliberation that was given up: what was asked, and how it went.
type DeadLetter struct {
	Request *pb.ExecuteDeliberationRequest
	Status  *pb.GetDeliberationStatusResponse
}

// deadDocument is an object's content, in proto3 JSON: for a person too.
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

// StoreDeadLetter stores a deliberation that was given up; one that is there stays as
// it is, for it has one end. LimitReached: the bucket is full.
func (j *Journal) StoreDeadLetter(ctx context.Context, story *deliberation.History) error {
	id := story.Requested.GetDeliberationId()
	data, err := json.Marshal(DeadLetter{Request: story.Requested.GetRequest(), Status: story.Status(id)})
	if err != nil {
		return fmt.Errorf("keep %s: %w", id, err)
	}
	err = j.putObject(ctx, j.name(DeadLetterBucket), jetstream.ObjectMeta{Name: id, Metadata: map[string]string{
		metaTask: story.Requested.GetTaskId(), metaPool: story.Requested.GetPool(),
		metaAttempts: strconv.Itoa(int(story.Attempts)), metaReason: oneLine(story.Reason),
		metaEnded: story.Ended.UTC().Format(time.RFC3339Nano),
	}}, data)
	if deliberation.AsError(err).Code == deliberation.LimitReached {
		j.deleteDeadLetterName(ctx, id)
		return fullOf(j.name(DeadLetterBucket), "retry some of `ray-executor dead list`, or raise JOURNAL_MAX_BYTES and deploy", err)
	}
	return err
}

// deleteDeadLetterName takes back the name of what had no room: it may have been small enough.
// Whoever kept it meanwhile loses nothing, for the end comes again.
func (j *Journal) deleteDeadLetterName(ctx context.Context, id string) {
	stream, err := j.js.Stream(ctx, objectStream(j.name(DeadLetterBucket)))
	if err == nil {
		name := base64.URLEncoding.EncodeToString([]byte(id))
		err = stream.Purge(ctx, jetstream.WithPurgeSubject("$O."+j.name(DeadLetterBucket)+".M."+name))
	}
	if err != nil {
		j.log.Debug("take a name out of "+j.name(DeadLetterBucket), "deliberation", id, "error", err)
	}
}

// ListDeadLetters lists what was given up, by its id.
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
		return nil, j.failed("list what was given up", err)
	}
	list := make([]DeadLetterSummary, len(objects))
	for i, object := range objects {
		list[i] = DeadLetterSummary{
			ID: object.Name, TaskID: object.Metadata[metaTask], Pool: object.Metadata[metaPool], Reason: object.Metadata[metaReason],
		}
		// Told, not counted on.
		list[i].Attempts, _ = strconv.Atoi(object.Metadata[metaAttempts])
		list[i].Ended, _ = time.Parse(time.RFC3339Nano, object.Metadata[metaEnded])
	}
	return list, nil
}

// ReadDeadLetter reads a deliberation that was given up; NotFound where none is kept.
func (j *Journal) ReadDeadLetter(ctx context.Context, id string) (DeadLetter, error) {
	var dead DeadLetter
	data, err := j.getObject(ctx, j.name(DeadLetterBucket), id)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return dead, &deliberation.Error{
			Code: deliberation.NotFound, Field: "deliberation_id", DeliberationID: id,
			Message: "none that was given up has the id " + strconv.Quote(id) + ": see `ray-executor dead list`",
		}
	}
	if err != nil {
		return dead, err
	}
	if err := json.Unmarshal(data, &dead); err != nil {
		return dead, fmt.Errorf("read what is kept of %s: %w", id, err)
	}
	return dead, nil
}

// DeleteDeadLetter takes out what has been submitted anew. What is gone is gone.
func (j *Journal) DeleteDeadLetter(ctx context.Context, id string) error {
	store, err := j.js.ObjectStore(ctx, j.name(DeadLetterBucket))
	if err == nil {
		err = store.Delete(ctx, id)
	}
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return j.failed("take "+id+" out of "+j.name(DeadLetterBucket), err)
	}
	return nil
}
