package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/gate"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Story folds one deliberation. A story without an end is checked with the
// leader before it is told: a replica may lag behind an acknowledged write.
func (j *Journal) Read(ctx context.Context, id string) (*deliberation.History, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	entries, err := j.readReplica(ctx, id)
	if err != nil {
		return nil, err
	}
	if story := deliberation.Fold(entries); story.State.Ended() && !startedLate(entries) {
		return story, nil
	}
	return j.checked(ctx, id, entries)
}

// ReadLeader folds one deliberation as the leader has it, for decisions.
func (j *Journal) ReadLeader(ctx context.Context, id string) (*deliberation.History, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	entries, err := j.readReplica(ctx, id)
	if err != nil {
		return nil, err
	}
	return j.checked(ctx, id, entries)
}

// checked folds a replica's entries if the leader has no later one: what comes
// before it is then there too. Otherwise the leader tells the story.
func (j *Journal) checked(ctx context.Context, id string, entries []deliberation.Entry) (*deliberation.History, error) {
	last, err := j.last(ctx, events.HistorySubject(id))
	if err != nil {
		return nil, err
	}
	story := deliberation.Fold(entries)
	if last == nil && len(entries) == 0 {
		if err := j.requireQuorum(ctx); err != nil {
			return nil, err
		}
	}
	if last == nil || last.Sequence <= story.Sequence && !startedLate(entries) {
		return story, nil
	}
	return j.walk(ctx, id, max(last.Sequence, story.Sequence))
}

// heardWithin is how lately a leader has heard of its followers, if no other
// can have been elected: they wait four seconds at least (minElectionTimeout of
// nats-server), and hear from it each second.
const heardWithin = 3 * time.Second

// errAlone says that a leader does not hear its followers.
var errAlone = errors.New("the leader is alone")

// requireQuorum makes sure that a leader which knows nothing still leads. One that is cut
// off from the others goes on to answer for some seconds, without what they
// have stored since.
func (j *Journal) requireQuorum(ctx context.Context) error {
	info, err := j.info(ctx)
	if err != nil || info.Cluster == nil {
		return err
	}
	near := 1 // itself
	for _, follower := range info.Cluster.Replicas {
		if !follower.Offline && follower.Active < heardWithin {
			near++
		}
	}
	if 2*near > 1+len(info.Cluster.Replicas) {
		return nil
	}
	return unavailable("NATS_URL", "could not tell whether the journal holds it: its servers do not hear each other; repeating is safe", errAlone)
}

// startedLate reports whether a start stands behind the end. It hides the
// starts before, of which a replica tells the last alone.
func startedLate(entries []deliberation.Entry) bool {
	ended := false
	for _, entry := range entries {
		switch entry.Event.(type) {
		case *pb.DeliberationStarted:
			return ended // there is one at most
		case *pb.DeliberationCompleted, *pb.DeliberationFailed, *pb.DeliberationCancelled:
			ended = true
		}
	}
	return false
}

// readReplica reads a story's last message a subject, from any replica.
func (j *Journal) readReplica(ctx context.Context, id string) ([]deliberation.Entry, error) {
	messages, err := j.lastEach(ctx, events.HistorySubject(id))
	if err != nil {
		return nil, err
	}
	entries := make([]deliberation.Entry, 0, len(messages))
	for _, message := range messages {
		entry, err := j.entry(ctx, message)
		if errors.Is(err, errForeign) {
			continue
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// walk reads a story entry by entry from the leader, up to its last one.
func (j *Journal) walk(ctx context.Context, id string, last uint64) (*deliberation.History, error) {
	var entries []deliberation.Entry
	err := j.each(ctx, id, 1, last, func(entry deliberation.Entry) error {
		entries = append(entries, entry)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return deliberation.Fold(entries), nil
}

// each reads a story's entries between two sequences from the leader: to ask
// for more than there is makes the server search to the journal's end.
func (j *Journal) each(ctx context.Context, id string, from, last uint64, tell func(deliberation.Entry) error) error {
	for from <= last {
		message, err := j.next(ctx, events.HistorySubject(id), from)
		if err != nil || message == nil {
			return err
		}
		from = message.Sequence + 1
		entry, err := j.entry(ctx, message)
		if errors.Is(err, errForeign) {
			continue
		}
		if err != nil {
			return err
		}
		if err := tell(entry); err != nil {
			return err
		}
	}
	return nil
}

// last reads the last message on a subject from the leader; nil where there
// is none.
func (j *Journal) last(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return j.ask(ctx, getRequest{LastBySubject: subject})
}

// next reads the first message on a subject from a sequence on, from the
// leader; nil where there is none.
func (j *Journal) next(ctx context.Context, subject string, from uint64) (*jetstream.RawStreamMsg, error) {
	return j.ask(ctx, getRequest{Sequence: max(1, from), NextBySubject: subject})
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

func (j *Journal) ask(ctx context.Context, request getRequest) (*jetstream.RawStreamMsg, error) {
	done, err := gate.Reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("ask the leader: %w", err)
	}
	reply, err := j.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+j.name(Stream), body)
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

// errForeign says that a message is part of no story.
var errForeign = errors.New("is part of no story")

// entry decodes a stored message. One that cannot be read is noted, and told by
// what its subject says: it must not keep the others from being read.
// errForeign: it is on a subject that no story has.
func (j *Journal) entry(ctx context.Context, message *jetstream.RawStreamMsg) (deliberation.Entry, error) {
	event, unread := events.Stored(message.Subject, message.Header, message.Data)
	if event == nil {
		return deliberation.Entry{}, fmt.Errorf("message %d of %s: %w", message.Sequence, j.name(Stream), errForeign)
	}
	if unread != nil {
		j.unreadable.note(j.log, fmt.Sprintf("message %d of %s, on %s", message.Sequence, j.name(Stream), message.Subject), unread)
	} else if err := j.inline(ctx, event); err != nil {
		return deliberation.Entry{}, err
	}
	return deliberation.Entry{Sequence: message.Sequence, Time: message.Time, Event: event, Unreadable: unread != nil}, nil
}
