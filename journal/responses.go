package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/events"
)

// Responses is the stream that keeps the agents' responses where the fleet has
// none that does.
const Responses = "AGENT_RESPONSES"

// responsesDescription also tells our stream from one of the fleet's that has
// the same name.
const responsesDescription = "What Orchestrators of the Python service hear of each agent, from the ray-executor."

// deployResponses makes the Responder's consumer and sees to it that a stream
// keeps what it sends; or takes the consumer away.
func (j *Journal) deployResponses(ctx context.Context, layout Layout) error {
	if !layout.AgentResponses {
		err := j.js.DeleteConsumer(ctx, Stream, Responder.consumer)
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("take away the consumer %s: %w", Responder.consumer, err)
		}
		return nil
	}
	if err := j.deployResponsesStream(ctx, layout); err != nil {
		return err
	}
	_, err := j.js.CreateOrUpdateConsumer(ctx, Stream, jetstream.ConsumerConfig{
		Durable: Responder.consumer, Description: "The keeper's: every end, each agent of which is told (AGENT_RESPONSES=true).",
		// Whoever switches it on does not expect to hear the last week.
		DeliverPolicy: jetstream.DeliverNewPolicy,
		FilterSubject: events.DoneSubjects, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: announceWait, MaxDeliver: -1, MaxAckPending: 1000,
	})
	if err != nil {
		return fmt.Errorf("make the consumer %s: %w", Responder.consumer, err)
	}
	return nil
}

// deployResponsesStream leaves to the fleet's streams what they keep already:
// two streams cannot have the same subject.
func (j *Journal) deployResponsesStream(ctx context.Context, layout Layout) error {
	subjects, err := j.unkept(ctx)
	if err != nil || len(subjects) == 0 {
		return err
	}
	_, err = j.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: Responses, Description: responsesDescription,
		Subjects: subjects, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxAge: layout.MaxAge, MaxBytes: announcementBytes(layout.MaxBytes), Duplicates: duplicateWindow,
		Replicas: layout.Replicas, AllowDirect: true,
	})
	if err != nil {
		return fmt.Errorf("make the stream %s: %w; if the server lacks the room, set JOURNAL_MAX_BYTES lower", Responses, err)
	}
	return nil
}

// unkept returns the subjects of the agents' responses that no other stream
// keeps.
func (j *Journal) unkept(ctx context.Context) ([]string, error) {
	others, err := j.othersThatKeep(ctx, events.ResponseSubjects)
	if err != nil || len(others) == 0 {
		return []string{events.ResponseSubjects}, err
	}
	var subjects []string
	for _, subject := range []string{events.ResponseCompleted, events.ResponseFailed} {
		keep, err := j.othersThatKeep(ctx, subject)
		if err != nil {
			return nil, err
		}
		if len(keep) == 0 {
			subjects = append(subjects, subject)
		}
	}
	if len(subjects) > 0 && slices.Contains(others, Responses) {
		return nil, fmt.Errorf("the stream %s is not ours and does not keep %v: add the subjects to it", Responses, subjects)
	}
	return subjects, nil
}

// othersThatKeep names the streams besides ours that have a subject, or a part
// of it.
func (j *Journal) othersThatKeep(ctx context.Context, subject string) ([]string, error) {
	lister := j.js.ListStreams(ctx, jetstream.WithStreamListSubject(subject))
	var names []string
	for info := range lister.Info() {
		if info.Config.Name != Responses || info.Config.Description != responsesDescription {
			names = append(names, info.Config.Name)
		}
	}
	if err := lister.Err(); err != nil {
		return nil, fmt.Errorf("list the streams that keep %s: %w", subject, err)
	}
	return names, nil
}
