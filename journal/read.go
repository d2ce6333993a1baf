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

// Reads are of two kinds. A replica answers a direct get with many messages in
// one reply, but it may lag behind an acknowledged write. The leader answers one
// message per request, and it has every acknowledged write. So a history is read
// from a replica, and one request to the leader confirms that nothing is missing.

// Read folds the history of one deliberation, for answers to callers.
//
// An end is final, so a replica's history that has one is returned as it is.
// Without an end the leader is asked: the caller may have written the last
// event itself, and must read its own write.
func (j *Journal) Read(ctx context.Context, id string) (*deliberation.History, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	entries, err := j.readReplica(ctx, id)
	if err != nil {
		return nil, err
	}
	if history := deliberation.Fold(entries); history.State.Ended() && !startedLate(entries) {
		return history, nil
	}
	return j.confirmLeader(ctx, id, entries)
}

// ReadLeader folds the history of one deliberation as the leader has it. Use it
// for decisions: which end to write, and with which results.
func (j *Journal) ReadLeader(ctx context.Context, id string) (*deliberation.History, error) {
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	entries, err := j.readReplica(ctx, id)
	if err != nil {
		return nil, err
	}
	return j.confirmLeader(ctx, id, entries)
}

// confirmLeader folds a replica's entries if the leader has no later one, and
// otherwise reads the history again from the leader.
//
// A replica applies messages in the order of their sequence. If it has the
// leader's last message of this id, it also has all messages before that one.
func (j *Journal) confirmLeader(ctx context.Context, id string, entries []deliberation.Entry) (*deliberation.History, error) {
	last, err := j.last(ctx, events.HistorySubject(id))
	if err != nil {
		return nil, err
	}
	history := deliberation.Fold(entries)
	if last == nil && len(entries) == 0 {
		// "Not found" is a decision too. A leader without a quorum must not make it.
		if err := j.requireQuorum(ctx); err != nil {
			return nil, err
		}
	}
	if last == nil || last.Sequence <= history.Sequence && !startedLate(entries) {
		return history, nil
	}
	return j.walk(ctx, id, max(last.Sequence, history.Sequence))
}

// quorumContact is how recent a follower's last contact must be. nats-server
// starts an election after four seconds at the earliest (minElectionTimeout),
// and followers hear from the leader every second. So a leader with contacts
// younger than this to a majority cannot have been replaced.
const quorumContact = 3 * time.Second

// errNoQuorum is the cause when a leader has no recent contact to a majority.
var errNoQuorum = errors.New("the leader has no quorum")

// requireQuorum returns Unavailable unless the leader has recent contact to a
// majority of the stream's servers, itself included.
//
// A leader that a network partition has cut off answers reads for some seconds
// more, without the messages that a new leader has stored since.
func (j *Journal) requireQuorum(ctx context.Context) error {
	info, err := j.info(ctx)
	if err != nil || info.Cluster == nil {
		return err // a single server is its own majority
	}
	inContact := 1 // the leader itself
	for _, follower := range info.Cluster.Replicas {
		if !follower.Offline && follower.Active < quorumContact {
			inContact++
		}
	}
	if 2*inContact > 1+len(info.Cluster.Replicas) {
		return nil
	}
	return unavailable("NATS_URL", "could not confirm whether the journal holds it: the leader has no contact to a majority of its servers; repeating is safe", errNoQuorum)
}

// startedLate reports whether a start comes after the end. A worker that was
// paused may write one. It hides the earlier starts, because a replica returns
// only the last message of a subject: the leader must be read one by one.
func startedLate(entries []deliberation.Entry) bool {
	ended := false
	for _, entry := range entries {
		if _, started := entry.Event.(*pb.DeliberationStarted); started {
			return ended // a replica returns at most one start
		}
		ended = ended || deliberation.EndState(entry.Event).Ended()
	}
	return false
}

// readReplica reads the last message of each subject of one id from any
// replica, ordered by sequence. All subjects except that of the starts hold one
// message, and of the starts the last one counts.
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

// walk folds a history that it reads message by message from the leader, up to
// the sequence last.
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

// each calls handle for every entry of one id between two sequences, both
// included, as the leader has them. The caller must know that last exists: a
// request for a message that does not exist makes the server search to the end
// of the journal.
func (j *Journal) each(ctx context.Context, id string, from, last uint64, handle func(deliberation.Entry) error) error {
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
		if err := handle(entry); err != nil {
			return err
		}
	}
	return nil
}

// last reads the last message on a subject from the leader; nil if there is
// none.
func (j *Journal) last(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	return j.get(ctx, getRequest{LastBySubject: subject})
}

// next reads the first message on a subject at or after a sequence from the
// leader; nil if there is none.
func (j *Journal) next(ctx context.Context, subject string, from uint64) (*jetstream.RawStreamMsg, error) {
	return j.get(ctx, getRequest{Sequence: max(1, from), NextBySubject: subject})
}

// getRequest is the body of $JS.API.STREAM.MSG.GET, which only the leader
// answers. It is written here because nats.go sends a direct get, which any
// replica answers, wherever the stream allows that.
type getRequest struct {
	Sequence      uint64 `json:"seq,omitempty"`
	NextBySubject string `json:"next_by_subj,omitempty"`
	LastBySubject string `json:"last_by_subj,omitempty"`
}

// getResponse is the leader's answer: an error or a message.
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

// get reads one message from the leader; nil if there is none. The gate bounds
// how many such reads run at once.
func (j *Journal) get(ctx context.Context, request getRequest) (*jetstream.RawStreamMsg, error) {
	done, err := gate.Reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, j.wait)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("write a request to the leader: %w", err)
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
			return nil, nil // an answer, and no failure
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

// errForeign marks a message that belongs to no deliberation.
var errForeign = errors.New("belongs to no deliberation")

// entry decodes a stored message and inlines an offloaded field.
//
// A message that cannot be decoded is counted, logged once, and replaced by
// what its subject says: one damaged message must not block all others.
// errForeign: the subject is not one of the journal's.
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
