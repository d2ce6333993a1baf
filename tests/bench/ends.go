package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/tests/system"
)

// ends hears from the journal which deliberations have ended, as anyone can.
type ends struct {
	conn    *nats.Conn
	reading jetstream.ConsumeContext

	mu      sync.Mutex
	waiting map[string]chan string
}

func listen(ctx context.Context, sys *system.System) (*ends, error) {
	conn, err := sys.NATS()
	if err != nil {
		return nil, err
	}
	e := &ends{conn: conn, waiting: make(map[string]chan string)}
	e.reading, err = hear(ctx, conn, e.handle)
	return e, err
}

// hear calls handle for each end that is stored in the journal from now on.
func hear(ctx context.Context, conn *nats.Conn, handle func(how, id string)) (jetstream.ConsumeContext, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	consumer, err := js.OrderedConsumer(ctx, journal.Stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{events.DoneSubjects}, DeliverPolicy: jetstream.DeliverNewPolicy, HeadersOnly: true,
	})
	if err != nil {
		return nil, err
	}
	return consumer.Consume(func(message jetstream.Msg) {
		if _, how, id, ok := events.ParseSubject(message.Subject()); ok {
			handle(how, id)
		}
	})
}

func (e *ends) handle(how, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if waiting := e.waiting[id]; waiting != nil {
		waiting <- how
		delete(e.waiting, id)
	}
}

// expect is told how a deliberation ended; ask before it is submitted.
func (e *ends) expect(id string) <-chan string {
	e.mu.Lock()
	defer e.mu.Unlock()
	waiting := make(chan string, 1)
	e.waiting[id] = waiting
	return waiting
}

// completed waits for the end, which must be a completion.
func completed(ctx context.Context, id string, end <-chan string) error {
	select {
	case how := <-end:
		if how != "completed" {
			return fmt.Errorf("%s has %s", id, how)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s has not ended: %w", id, ctx.Err())
	}
}

func (e *ends) close() {
	e.reading.Stop()
	e.conn.Close()
}
