package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// Story folds one deliberation. A story without an end is checked with the
// leader before it is told: a replica may lag behind an acknowledged write.
func (j *Journal) Story(ctx context.Context, id string) (*deliberation.Deliberation, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	entries, err := j.replicaStory(ctx, id)
	if err != nil {
		return nil, err
	}
	if story := deliberation.Fold(entries); story.State.Ended() {
		return story, nil
	}
	last, err := j.last(ctx, events.StorySubject(id))
	if err != nil {
		return nil, err
	}
	if story := deliberation.Fold(entries); last == nil || last.Sequence == story.Sequence {
		return story, nil
	}
	return j.LeaderStory(ctx, id)
}

// replicaStory reads a story's last message a subject, from any replica.
func (j *Journal) replicaStory(ctx context.Context, id string) ([]deliberation.Entry, error) {
	messages, err := jetstreamext.GetLastMsgsFor(ctx, j.js, Stream, []string{events.StorySubject(id)})
	if err != nil {
		return nil, j.failed("read the journal", err)
	}
	var entries []deliberation.Entry
	for message, err := range messages {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return nil, nil
		}
		if err != nil {
			return nil, j.failed("read the journal", err)
		}
		entry, err := j.entry(ctx, message)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// LeaderStory folds one deliberation as the leader has it, for decisions.
func (j *Journal) LeaderStory(ctx context.Context, id string) (*deliberation.Deliberation, error) {
	var entries []deliberation.Entry
	for sequence := uint64(1); ; {
		message, err := j.ask(ctx, getRequest{Sequence: sequence, NextBySubject: events.StorySubject(id)})
		if err != nil {
			return nil, err
		}
		if message == nil {
			return deliberation.Fold(entries), nil
		}
		entry, err := j.entry(ctx, message)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
		sequence = message.Sequence + 1
	}
}

// last reads the last message on a subject from the leader; nil where there
// is none.
func (j *Journal) last(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return j.ask(ctx, getRequest{LastBySubject: subject})
}

// getRequest asks the leader for a message. nats.go's own call asks any
// replica where the stream allows direct reads.
type getRequest struct {
	Sequence      uint64 `json:"seq,omitempty"`
	NextBySubject string `json:"next_by_subj,omitempty"`
	LastBySubject string `json:"last_by_subj,omitempty"`
}

type getResponse struct {
	Error   *jetstream.APIError `json:"error"`
	Message *struct {
		Subject  string    `json:"subject"`
		Sequence uint64    `json:"seq"`
		Header   []byte    `json:"hdrs"`
		Data     []byte    `json:"data"`
		Time     time.Time `json:"time"`
	} `json:"message"`
}

const codeNoMessage jetstream.ErrorCode = 10037

func (j *Journal) ask(ctx context.Context, request getRequest) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("ask the leader: %w", err)
	}
	reply, err := j.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+Stream, body)
	if err != nil {
		return nil, j.failed("read the journal", err)
	}
	var response getResponse
	if err := json.Unmarshal(reply.Data, &response); err != nil {
		return nil, fmt.Errorf("read the leader's answer: %w", err)
	}
	if response.Error != nil {
		if response.Error.ErrorCode == codeNoMessage {
			return nil, nil
		}
		return nil, j.failed("read the journal", response.Error)
	}
	header := nats.Header{}
	if len(response.Message.Header) > 0 {
		if header, err = nats.DecodeHeadersMsg(response.Message.Header); err != nil {
			return nil, fmt.Errorf("read the headers of message %d: %w", response.Message.Sequence, err)
		}
	}
	return &jetstream.RawStreamMsg{
		Subject: response.Message.Subject, Sequence: response.Message.Sequence,
		Header: header, Data: response.Message.Data, Time: response.Message.Time,
	}, nil
}

// entry decodes a stored message.
func (j *Journal) entry(ctx context.Context, message *jetstream.RawStreamMsg) (deliberation.Entry, error) {
	event, err := events.Lifecycle(message.Header, message.Data)
	if err != nil {
		return deliberation.Entry{}, fmt.Errorf("message %d of %s: %w", message.Sequence, Stream, err)
	}
	if err := j.restore(ctx, event); err != nil {
		return deliberation.Entry{}, err
	}
	return deliberation.Entry{Sequence: message.Sequence, Time: message.Time, Event: event}, nil
}
