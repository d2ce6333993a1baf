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

// Undelivered is the stream of ends that the relay's sink did not take: the
// last one of each deliberation, until it is sent again.
const UndeliveredStream = "RELAY_UNDELIVERED"

const undeliveredSubject = "ray-executor.relay.undelivered."

// Headers that an end has in Undelivered besides those of the journal.
const (
	headerReason   = "relay-reason"
	headerAttempts = "relay-attempts"
	headerEnded    = "relay-ended"
)

// maxReason bounds what is kept of a sink's words.
const maxReason = 1 << 10

// relayWait is how long a relay may hold an end: in its queue, then until the
// sink has answered. What a killed one held comes again after that.
const relayWait = 90 * time.Second

// relayInFlight is how many ends are under way or wait to be tried again.
const relayInFlight = 256

// Undelivered is an end that the sink did not take.
type Undelivered struct {
	Delivery
	ID string
	// Reason is why it was not taken, At when it was given up. Attempt is how
	// often it was tried.
	Reason string
	At     time.Time

	sequence uint64 // in Undelivered
}

// PrepareRelay makes what the relay needs where it is not there yet: a sink may
// be bound to a relay that deploy knows nothing of. What is there is left as
// deploy has made it.
func (j *Journal) PrepareRelay(ctx context.Context, layout Layout) error {
	undelivered := j.undeliveredStream(layout)
	_, err := j.js.Stream(ctx, undelivered.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = j.js.CreateOrUpdateStream(ctx, undelivered)
	}
	if err != nil {
		return j.refused("make the stream "+undelivered.Name, err)
	}
	_, err = j.js.Consumer(ctx, j.name(Stream), Relay.consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = j.js.CreateOrUpdateConsumer(ctx, j.name(Stream), relayConsumer())
	}
	if err != nil {
		return j.refused("make the consumer "+Relay.consumer, err)
	}
	return nil
}

// undeliveredStream has no age: what is in it waits for a person. Once it is
// full the relay gives nothing up any more.
func (j *Journal) undeliveredStream(layout Layout) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: j.name(UndeliveredStream), Description: "Ends that the relay's sink did not take: `ray-executor relay list`.",
		Subjects: []string{undeliveredSubject + "*"}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: 1, MaxBytes: deadLetterBytes(layout.MaxBytes), Replicas: layout.Replicas,
	}
}

func relayConsumer() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: Relay.consumer, Description: "The relay's: every end, to be posted to K_SINK.",
		// A new sink does not expect the last week.
		DeliverPolicy: jetstream.DeliverNewPolicy,
		FilterSubject: events.DoneSubjects, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: relayWait, MaxDeliver: -1, MaxAckPending: relayInFlight,
	}
}

// Keep stores an end that the sink did not take, in place of an earlier one of
// the same deliberation.
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

// oneLine makes a header's value of what a sink said.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// Undelivered reads what the sink did not take, oldest first: that of one
// deliberation, or all that is there now where id is empty.
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
			kept, err := j.kept(ctx, message)
			if !yield(kept, err) {
				return
			}
		}
	}
}

func (j *Journal) kept(ctx context.Context, message *jetstream.RawStreamMsg) (Undelivered, error) {
	id := strings.TrimPrefix(message.Subject, undeliveredSubject)
	event, err := events.Lifecycle(message.Header, message.Data)
	if err == nil {
		err = j.inline(ctx, event)
	}
	if err != nil {
		return Undelivered{ID: id}, fmt.Errorf("read what is kept of %s: %w", id, err)
	}
	entry := deliberation.Entry{Sequence: message.Sequence, Time: message.Time, Event: event}
	kept := Undelivered{ID: id, Reason: message.Header.Get(headerReason), At: message.Time, sequence: message.Sequence}
	kept.Delivery = Delivery{Entry: entry, TraceParent: events.Trace(message.Header)}
	if kept.Time, err = time.Parse(time.RFC3339Nano, message.Header.Get(headerEnded)); err != nil {
		return kept, fmt.Errorf("read what is kept of %s: %w", id, err)
	}
	kept.Attempt, _ = strconv.ParseUint(message.Header.Get(headerAttempts), 10, 64) // told, not counted on
	return kept, nil
}

// Drop takes out what has been sent after all. One that was kept meanwhile
// anew stays.
func (j *Journal) DeleteUndelivered(ctx context.Context, kept Undelivered) error {
	stream, err := j.js.Stream(ctx, j.name(UndeliveredStream))
	if err == nil {
		err = stream.DeleteMsg(ctx, kept.sequence)
	}
	// The client tells a refusal as text: look whether it is gone.
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		if _, gone := stream.GetMsg(ctx, kept.sequence); errors.Is(gone, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	if err != nil {
		return j.failed("take "+kept.ID+" out of "+j.name(UndeliveredStream), err)
	}
	return nil
}
