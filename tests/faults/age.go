package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/journal"
)

const (
	// shortAge is longer than the longest timeout, as JOURNAL_MAX_AGE must be.
	shortAge = 150 * time.Second
	// fullAge is the default of JOURNAL_MAX_AGE.
	fullAge = 7 * 24 * time.Hour
	// doomedSize deliberations are evicted before any keeper can end them.
	doomedSize = 200
	// purgeExtra messages are removed beyond the first one. Each replica removes
	// old messages by its own clock; a purge makes their first messages the same.
	purgeExtra = 100
)

// Gap is what the journal evicted while no keeper ran. Messages after the last
// snapshot and before the first remaining message are not in the statistics.
type Gap struct {
	Snapshot, First uint64
}

// expire stops both keepers for longer than the journal's age. It stores
// deliberations that no worker takes, and that the last snapshot lists as open, so
// the journal evicts them while they are open. Healing starts the keepers, and
// then the function servers again: all count from the same snapshot.
func (r *run) expire(ctx context.Context, f Fault) (heal, error) {
	events, err := r.connect("age")
	if err != nil {
		return nil, err
	}
	keepers := r.busy["keepers"]
	keepers.Lock()
	gap, revision, err := r.beginExpiry(ctx, events, f)
	return func(ctx context.Context) error {
		defer keepers.Unlock()
		defer events.Close()
		return r.endExpiry(ctx, events, gap, revision)
	}, err
}

// beginExpiry stores what will be evicted, stops the keepers, reads the position of
// their last snapshot, and shortens the journal's age.
func (r *run) beginExpiry(ctx context.Context, events *journal.Journal, f Fault) (gap Gap, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := r.doom(ctx, events, f); err != nil {
		return gap, 0, err
	}
	err = errors.Join(r.rig.keepers[0].kill(), r.rig.keepers[1].kill())
	sleep(ctx, time.Second) // every replica has the last snapshot
	err = errors.Join(err, until(ctx, "the snapshot is read", func(ctx context.Context) error {
		ledger, newest, err := events.Ledger(ctx)
		if err == nil {
			gap.Snapshot, revision = ledger.Sequence(), newest
		}
		return err
	}))
	return gap, revision, errors.Join(err, r.rig.nats.setAge(ctx, shortAge))
}

// doom stores what will be evicted, and waits until a snapshot has it.
func (r *run) doom(ctx context.Context, events *journal.Journal, f Fault) error {
	err := r.storeAll(ctx, events, doomedSize, func(i int) Ask {
		return Ask{
			ID: fmt.Sprintf("f%d-doomed-%d-%d", r.plan.Seed, f.Which, i), Models: []string{Quick}, Backlog: true,
			Timeout: 60*time.Second + time.Duration(i%56)*time.Second,
		}
	})
	if err != nil {
		return err
	}
	return until(ctx, "a snapshot has what is stored", func(ctx context.Context) error {
		ledger, _, err := events.Ledger(ctx)
		if err != nil {
			return err
		}
		if open := ledger.Oldest(doomedSize, ofBacklog); len(open) < doomedSize {
			return fmt.Errorf("it has %d", len(open))
		}
		return nil
	})
}

// endExpiry restores the age and starts the keepers and the function servers.
func (r *run) endExpiry(ctx context.Context, events *journal.Journal, gap Gap, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	err := r.rig.nats.setAge(ctx, fullAge)
	var state jetstream.StreamState
	if err == nil {
		state, err = r.rig.nats.purgeOldest(ctx)
	}
	gap.First = state.FirstSeq
	r.mu.Lock()
	r.gaps = append(r.gaps, gap)
	r.mu.Unlock()
	r.notef("  evicted: the first sequence is %d, the snapshot was at %d, the last is %d", gap.First, gap.Snapshot, state.LastSeq)
	if err := errors.Join(err, r.rig.keepers[0].start(), r.rig.keepers[1].start()); err != nil {
		return err
	}
	err = until(ctx, "the keepers have stored a snapshot", func(ctx context.Context) error {
		ledger, newest, err := events.Ledger(ctx)
		if err == nil && (newest == revision || ledger.Sequence() < state.LastSeq) {
			err = fmt.Errorf("the snapshot is at %d of %d", ledger.Sequence(), state.LastSeq)
		}
		return err
	})
	functions := r.busy["functions"]
	functions.Lock()
	defer functions.Unlock()
	for _, p := range r.rig.functions {
		err = errors.Join(err, p.stop(), p.start())
	}
	return err
}

// setAge changes the journal's age.
func (c *natsCluster) setAge(ctx context.Context, age time.Duration) error {
	return until(ctx, "the journal's age is changed", func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, journal.Stream)
		if err != nil {
			return err
		}
		config := stream.CachedInfo().Config
		config.MaxAge = age
		_, err = c.js.UpdateStream(ctx, config)
		return err
	})
}

// purgeOldest removes the oldest messages on every replica alike, and returns
// the state that follows.
func (c *natsCluster) purgeOldest(ctx context.Context) (state jetstream.StreamState, err error) {
	first := uint64(0)
	err = until(ctx, "the oldest messages are purged", func(ctx context.Context) error {
		stream, err := c.js.Stream(ctx, journal.Stream)
		if err != nil {
			return err
		}
		state = stream.CachedInfo().State
		if first == 0 {
			first = min(state.FirstSeq+purgeExtra, state.LastSeq)
		}
		if state.FirstSeq >= first {
			return nil
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSequence(first)); err != nil {
			return err
		}
		return errors.New("purged, not seen yet")
	})
	return state, err
}

// tail reads the journal while the system works, so that evicted messages remain
// evidence.
type tail struct {
	mu       sync.Mutex
	messages []*jetstream.RawStreamMsg
	// missed are sequences that were evicted before they were read.
	missed []uint64
}

// run reads until ctx ends, whatever happens to NATS.
func (t *tail) run(ctx context.Context, nats *natsCluster) {
	for ctx.Err() == nil {
		_ = t.read(ctx, nats) // it continues after the last message
		sleep(ctx, 200*time.Millisecond)
	}
}

func (t *tail) read(ctx context.Context, nats *natsCluster) error {
	consumer, err := nats.js.OrderedConsumer(ctx, journal.Stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: t.last() + 1, MaxResetAttempts: 1,
	})
	if err != nil {
		return err
	}
	return handleAll(ctx, consumer, func(message *jetstream.RawStreamMsg) error {
		t.add(message)
		return nil
	}, jetstream.PullHeartbeat(2*time.Second))
}

func (t *tail) add(message *jetstream.RawStreamMsg) {
	last := t.last()
	t.mu.Lock()
	defer t.mu.Unlock()
	for missing := last + 1; missing < message.Sequence; missing++ {
		t.missed = append(t.missed, missing)
	}
	if message.Sequence > last {
		t.messages = append(t.messages, message)
	}
}

// last is the sequence of the last message that was read.
func (t *tail) last() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.messages) == 0 {
		return 0
	}
	return t.messages[len(t.messages)-1].Sequence
}

// rawOf is a delivered message as the stream stores it.
func rawOf(message jetstream.Msg) (*jetstream.RawStreamMsg, error) {
	metadata, err := message.Metadata()
	if err != nil {
		return nil, err
	}
	return &jetstream.RawStreamMsg{
		Subject: message.Subject(), Sequence: metadata.Sequence.Stream, Header: message.Headers(),
		Data: message.Data(), Time: metadata.Timestamp,
	}, nil
}

// readJournal returns all messages of the run, in their order: evicted ones as
// the tail has them, the others as the journal has them now.
func (r *run) readJournal(ctx context.Context, e *Evidence) error {
	if err := until(ctx, "the tail has all messages", func(ctx context.Context) error {
		info, err := r.rig.nats.info(ctx)
		if err != nil {
			return err
		}
		e.First = info.State.FirstSeq
		if last := r.tail.last(); last < info.State.LastSeq {
			return fmt.Errorf("it is at %d of %d", last, info.State.LastSeq)
		}
		return nil
	}); err != nil {
		return err
	}
	r.tail.mu.Lock()
	defer r.tail.mu.Unlock()
	for _, missing := range r.tail.missed {
		if missing < e.First {
			return fmt.Errorf("message %d was evicted before the harness read it", missing)
		}
	}
	stored := map[uint64]bool{}
	var kept []*jetstream.RawStreamMsg
	err := r.rig.nats.each(ctx, journal.Stream, func(message *jetstream.RawStreamMsg) error {
		stored[message.Sequence] = true
		kept = append(kept, message)
		return nil
	})
	if err != nil {
		return err
	}
	for _, message := range r.tail.messages {
		switch {
		case message.Sequence < e.First:
			if err := e.add(message); err != nil {
				return err
			}
		case !stored[message.Sequence]:
			e.Vanished = append(e.Vanished, fmt.Sprintf("%d on %s", message.Sequence, message.Subject))
		}
	}
	for _, message := range kept {
		if err := e.add(message); err != nil {
			return err
		}
	}
	return nil
}
