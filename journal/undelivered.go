package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// Headers of an undelivered end besides those of the journal.
const (
	headerReason   = "relay-reason"
	headerAttempts = "relay-attempts"
	headerEnded    = "relay-ended"
)

// maxReason bounds the bytes of a sink's answer that are stored.
const maxReason = 1 << 10

// Undelivered is an end that the relay's sink did not take. It waits in
// UndeliveredStream until a person sends it again.
type Undelivered struct {
	Delivery
	ID string
	// Reason is the sink's last answer. Attempt counts the attempts.
	Reason string
	// At is when the relay stopped trying.
	At time.Time

	sequence uint64 // in UndeliveredStream
}

// StoreUndelivered stores an end that the sink did not take, in place of an
// earlier one of the same deliberation. It is safe to repeat: the stream holds
// one message per id. LimitReached: the stream is full.
//
// The relay acknowledges the end only after this succeeds, so that no end is
// lost between the two streams.
func (j *Journal) StoreUndelivered(ctx context.Context, end Delivery, reason string) error {
	light, err := j.offloadIfLarge(ctx, end.Event)
	if err != nil {
		return err
	}
	encoded, err := events.Encode(light, events.Source, end.TraceParent)
	if err != nil {
		return err
	}
	header := nats.Header(encoded.Header)
	header.Set(headerReason, oneLine(reason))
	header.Set(headerAttempts, strconv.FormatUint(end.Attempt, 10))
	header.Set(headerEnded, end.Time.UTC().Format(time.RFC3339Nano))
	id := encoded.Subject[strings.LastIndexByte(encoded.Subject, '.')+1:]
	return j.send(ctx, undeliveredSubject+id, header, encoded.Data, jetstream.WithExpectStream(j.name(UndeliveredStream)))
}

// oneLine makes a valid header value of a text: one line, bounded, UTF-8.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// ReadUndelivered reads the undelivered ends, oldest first: that of one
// deliberation, or all if id is empty. Ends that are stored after the call are
// not read, so that a caller who stores them again does not loop.
func (j *Journal) ReadUndelivered(ctx context.Context, id string) iter.Seq2[Undelivered, error] {
	subject := undeliveredSubject + id
	if id == "" {
		subject = undeliveredSubject + "*"
	}
	return func(yield func(Undelivered, error) bool) {
		stream, err := j.js.Stream(ctx, j.name(UndeliveredStream))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return // no relay has run yet
		}
		if err != nil {
			yield(Undelivered{}, j.failed("read the stream "+j.name(UndeliveredStream), err))
			return
		}
		last := stream.CachedInfo().State.LastSeq
		for sequence := uint64(1); sequence <= last; sequence++ {
			message, err := stream.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(subject))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if err != nil {
				yield(Undelivered{}, j.failed("read the stream "+j.name(UndeliveredStream), err))
				return
			}
			sequence = message.Sequence
			undelivered, err := j.decodeUndelivered(ctx, message)
			if !yield(undelivered, err) {
				return
			}
		}
	}
}

// decodeUndelivered reads a message of UndeliveredStream. On an error the id is
// set, so that a list can name the damaged one.
func (j *Journal) decodeUndelivered(ctx context.Context, message *jetstream.RawStreamMsg) (Undelivered, error) {
	id := strings.TrimPrefix(message.Subject, undeliveredSubject)
	event, err := events.Lifecycle(message.Header, message.Data)
	if err == nil {
		err = j.inline(ctx, event)
	}
	if err != nil {
		return Undelivered{ID: id}, fmt.Errorf("read the undelivered end of %s: %w", id, err)
	}
	entry := deliberation.Entry{Sequence: message.Sequence, Time: message.Time, Event: event}
	undelivered := Undelivered{ID: id, Reason: message.Header.Get(headerReason), At: message.Time, sequence: message.Sequence}
	undelivered.Delivery = Delivery{Entry: entry, TraceParent: events.Trace(message.Header)}
	// The sink receives the time of the end, not that of this message.
	if undelivered.Time, err = time.Parse(time.RFC3339Nano, message.Header.Get(headerEnded)); err != nil {
		return undelivered, fmt.Errorf("read the undelivered end of %s: %w", id, err)
	}
	undelivered.Attempt, _ = strconv.ParseUint(message.Header.Get(headerAttempts), 10, 64) // for display only
	return undelivered, nil
}

// DeleteUndelivered deletes an end that the sink has taken now. It deletes by
// sequence: if the relay has stored the end again since, that one remains. It is
// safe to repeat.
func (j *Journal) DeleteUndelivered(ctx context.Context, undelivered Undelivered) error {
	stream, err := j.js.Stream(ctx, j.name(UndeliveredStream))
	if err == nil {
		err = stream.DeleteMsg(ctx, undelivered.sequence)
	}
	// Another process may have deleted it at the same moment, which is no error.
	// The client gives no code for a refusal: read whether the message is gone.
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := stream.GetMsg(ctx, undelivered.sequence); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	if err != nil {
		return j.failed("delete "+undelivered.ID+" from "+j.name(UndeliveredStream), err)
	}
	return nil
}
