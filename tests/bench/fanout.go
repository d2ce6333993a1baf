package main

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

// audiences are how many listen.
var audiences = []int{1, 10, 100}

// What is compared.
const (
	byConsumer = "consumers of the journal"
	byPublish  = "plain NATS publish"
)

// fanout measures from when an end is due to be written to when it is heard.
func (b *bench) fanout(ctx context.Context) (*section, error) {
	front, err := b.front(ctx, "fanout")
	if err != nil {
		return nil, err
	}
	defer front.Close()
	var half, tail figures
	for round := range b.rounds {
		for _, listeners := range audiences {
			for _, name := range []string{byConsumer, byPublish} {
				took, err := b.fanoutTurn(ctx, front, name, listeners)
				if err != nil {
					return nil, fmt.Errorf("%s, %d listeners: %w", name, listeners, err)
				}
				key := fmt.Sprintf("%s/%d", name, listeners)
				half.add(key, took.at(50))
				tail.add(key, took.at(99))
				b.sayf("round %d, %-25s %3d listeners: p50 %s ms, p99 %s ms", round+1, name, listeners, number(took.at(50)), number(took.at(99)))
			}
		}
	}
	return b.fanoutSection(&half, &tail)
}

// audience is listeners with a connection each, and what they have heard.
type audience struct {
	begun time.Time
	took  *latencies
	heard atomic.Int64
	stop  []func()
}

// hear notes that something was heard, which carries when it was due.
func (a *audience) hear(due string) {
	at, err := strconv.ParseInt(due, 10, 64)
	if err != nil {
		return // not of this turn
	}
	a.took.record(time.Since(a.begun) - time.Duration(at))
	a.heard.Add(1)
}

func (a *audience) close() {
	for _, stop := range a.stop {
		stop()
	}
}

const plainSubject = "bench.done"

// gather has listeners listen, one way or the other.
func gather(ctx context.Context, front *system.System, name string, listeners int) (*audience, error) {
	a := &audience{begun: time.Now(), took: newLatencies()}
	for range listeners {
		conn, err := front.NATS()
		if err != nil {
			return a, err
		}
		a.stop = append(a.stop, conn.Close)
		if name == byPublish {
			if _, err := conn.Subscribe(plainSubject, func(message *nats.Msg) { a.hear(string(message.Data)) }); err != nil {
				return a, err
			}
			if err := conn.Flush(); err != nil {
				return a, err
			}
			continue
		}
		// The id carries when it was due: after its last dash.
		if _, err := hear(ctx, conn, func(_, id string) { a.hear(id[len("fanout-"):]) }); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (b *bench) fanoutTurn(ctx context.Context, front *system.System, name string, listeners int) (*latencies, error) {
	a, err := gather(ctx, front, name, listeners)
	defer a.close()
	if err != nil {
		return nil, err
	}
	conn, err := front.NATS()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	const rate = 50
	total := int64(rate * b.turn(3).Seconds())
	_, err = open(ctx, 4, rate, b.turn(3), func(ctx context.Context, _ int) error {
		due := strconv.FormatInt(int64(time.Since(a.begun)), 10)
		if name == byPublish {
			return conn.Publish(plainSubject, []byte(due))
		}
		id := "fanout-" + due
		encoded, err := events.Encode(&pb.DeliberationCompleted{DeliberationId: id}, events.Source, "")
		if err != nil {
			return err
		}
		_, err = js.PublishMsg(ctx, &nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data},
			jetstream.WithExpectLastSequenceForSubject(0, events.EndSubject(id)))
		return err
	})
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); a.heard.Load() < total*int64(listeners); {
		if time.Now().After(end) {
			return nil, fmt.Errorf("%d of %d were heard", a.heard.Load(), total*int64(listeners))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return a.took, nil
}

func (b *bench) fanoutSection(half, tail *figures) (*section, error) {
	s := &section{title: "Fan-out"}
	s.textf("From writing an end to hearing of it, each listener on a connection of its own, 50 ends a second. A consumer of the journal " +
		"hears of what is stored, in order, and gets again what it has missed; plain NATS promises neither.")
	rows := [][]string{{"", "listeners", "median, ms", "99th percentile, ms"}}
	c := chart{name: "fanout", title: "From done to heard, median", unit: "ms"}
	for _, listeners := range audiences {
		c.groups = append(c.groups, fmt.Sprintf("%d listeners", listeners))
	}
	for _, name := range []string{byConsumer, byPublish} {
		one := bar{name: name}
		for _, listeners := range audiences {
			key := fmt.Sprintf("%s/%d", name, listeners)
			rows = append(rows, []string{name, fmt.Sprint(listeners), half.of(key).String(), tail.of(key).String()})
			one.values = append(one.values, half.of(key).median())
		}
		c.bars = append(c.bars, one)
	}
	s.table(rows...)
	s.plot(c.name, c.title)
	return s, b.draw(c)
}
