package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/gate"
)

// Direct gets are answered by any replica of a stream. The server sends each stored
// message as a reply of its own, and then one reply without data that says whether
// more would follow. nats.go has no such call with a filter of several subjects.

const (
	// answerBytes bounds the data of one batch.
	answerBytes = 1 << 20
	// answerMessages bounds the replies of one batch: the server refuses batches
	// above 1,024 messages, and the last reply comes on top. The channel for the
	// replies has this length, as nats.go drops what does not fit.
	answerMessages = 1024 + 1
)

// lastRequest asks any replica for the last message of each subject that a filter
// covers. UpTo is the sequence of the first batch's snapshot: with it, later
// batches leave out what was stored meanwhile.
type lastRequest struct {
	Filters  []string `json:"multi_last"`
	From     uint64   `json:"seq,omitempty"`
	UpTo     uint64   `json:"up_to_seq,omitempty"`
	MaxBytes int      `json:"max_bytes"`
}

// lastEach reads the last message of each subject that a filter covers, from any
// replica, ordered by sequence. It returns all of them as of one moment, or an
// error. The gate bounds the concurrent reads and their memory.
func (j *Journal) lastEach(ctx context.Context, filter string) ([]*jetstream.RawStreamMsg, error) {
	done, err := gate.Reading(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	request := lastRequest{Filters: []string{filter}, MaxBytes: answerBytes}
	return j.direct(ctx, "read the journal", j.name(Stream), func(_ int, end answerEnd) any {
		if end.pending > 0 {
			request.From, request.UpTo = end.last+1, end.upTo
		}
		return request
	})
}

// batchRequest asks any replica for a stream's messages from a sequence on, in
// one batch that is bounded in number and in bytes.
type batchRequest struct {
	From     uint64 `json:"seq"`
	Subject  string `json:"next_by_subj"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
}

// firstOf reads a stream's messages in their order, from any replica. It stops
// after the batch in which it has read most messages, and after an empty one.
func (j *Journal) firstOf(ctx context.Context, doing, stream string, most int) ([]*jetstream.RawStreamMsg, error) {
	before, request := -1, batchRequest{Subject: ">", Batch: answerMessages - 1, MaxBytes: answerBytes}
	return j.direct(ctx, doing, stream, func(have int, end answerEnd) any {
		if have >= most || have == before {
			return nil
		}
		before, request.From = have, end.last+1
		return request
	})
}

// direct sends direct gets to any replica of a stream until no message is pending.
// next returns the request for the batch after end, which is zero for the first
// one; nil stops. have counts the messages so far.
func (j *Journal) direct(ctx context.Context, doing, stream string, next func(have int, end answerEnd) any) ([]*jetstream.RawStreamMsg, error) {
	replies := make(chan *nats.Msg, answerMessages)
	subscription, err := j.conn.ChanSubscribe(j.conn.NewInbox(), replies)
	if err != nil {
		return nil, j.failed(doing, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	var messages []*jetstream.RawStreamMsg
	var end answerEnd
	for request := next(0, end); request != nil; request = next(len(messages), end) {
		body, err := json.Marshal(request)
		if err != nil {
			return nil, fmt.Errorf("write a request to a replica: %w", err)
		}
		if err := j.conn.PublishRequest("$JS.API.DIRECT.GET."+stream, subscription.Subject, body); err != nil {
			return nil, j.failed(doing, err)
		}
		var batch []*jetstream.RawStreamMsg
		batch, end, err = answer(ctx, replies)
		if _, refused := errors.AsType[*deliberation.Error](err); refused {
			return nil, err // by the gate
		}
		if err != nil {
			return nil, j.failed(doing, err)
		}
		messages = append(messages, batch...)
		if end.pending == 0 {
			break
		}
	}
	return messages, nil
}

// answerEnd is the last reply of a batch: how many messages are pending, the last
// sequence of this batch, and the sequence of the snapshot.
type answerEnd struct{ pending, last, upTo uint64 }

// answer receives one batch. 204 ends a batch, 404 says that there is no message,
// and 503 that no replica answers.
func answer(ctx context.Context, replies <-chan *nats.Msg) (messages []*jetstream.RawStreamMsg, end answerEnd, err error) {
	for {
		message, err := receive(ctx, replies)
		if err != nil {
			return nil, answerEnd{}, err
		}
		switch status := message.Header.Get("Status"); status {
		case "":
			stored, err := fromHeaders(message)
			if err != nil {
				return nil, answerEnd{}, err
			}
			if err := gate.Take(ctx, len(stored.Data)); err != nil {
				return nil, answerEnd{}, err
			}
			messages = append(messages, stored)
		case "204":
			return messages, answerEnd{
				pending: number(message, "Nats-Num-Pending"), last: number(message, jetstream.LastSequenceHeader),
				upTo: number(message, "Nats-UpTo-Sequence"),
			}, nil
		case "404":
			return messages, answerEnd{}, nil
		case "503":
			return nil, answerEnd{}, nats.ErrNoResponders
		default:
			return nil, answerEnd{}, fmt.Errorf("status %s: %s", status, message.Header.Get("Description"))
		}
	}
}

// receive waits for one reply. A closed channel means a closed connection.
func receive(ctx context.Context, replies <-chan *nats.Msg) (*nats.Msg, error) {
	select {
	case message, open := <-replies:
		if !open {
			return nil, nats.ErrConnectionClosed
		}
		return message, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fromHeaders reads a stored message from a reply: its subject, sequence and time
// are in the reply's headers.
func fromHeaders(message *nats.Msg) (*jetstream.RawStreamMsg, error) {
	at, err := time.Parse(time.RFC3339Nano, message.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return nil, fmt.Errorf("read a stored message's time: %w", err)
	}
	return &jetstream.RawStreamMsg{
		Subject: message.Header.Get(jetstream.SubjectHeader), Sequence: number(message, jetstream.SequenceHeader),
		Header: message.Header, Data: message.Data, Time: at,
	}, nil
}

func number(message *nats.Msg, header string) uint64 {
	n, _ := strconv.ParseUint(message.Header.Get(header), 10, 64)
	return n
}
