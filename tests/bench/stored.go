package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

// histories are how many deliberations are stored.
var histories = []int{1_000, 100_000, 1_000_000}

// question is what is asked with that much history behind.
type question struct {
	name string
	kind string
	rate float64
	// ask makes the request, of one of so many deliberations.
	ask func(history int) proto.Message
}

const statusType = "ray_executor.v1.GetDeliberationStatusRequest"

var questions = []question{
	{"status, of the last 1,000", statusType, 200, func(history int) proto.Message {
		return &pb.GetDeliberationStatusRequest{DeliberationId: storedID(history - 1 - rand.IntN(histories[0]))}
	}},
	{"status, of any", statusType, 20, func(history int) proto.Message {
		return &pb.GetDeliberationStatusRequest{DeliberationId: storedID(rand.IntN(history))}
	}},
	{"statistics", "ray_executor.v1.GetStatusRequest", 100, func(int) proto.Message { return &pb.GetStatusRequest{IncludeStats: true} }},
	{"list, 50 a page", "ray_executor.v1.ListDeliberationsRequest", 20, func(int) proto.Message {
		return &pb.ListDeliberationsRequest{PageSize: 50}
	}},
}

func storedID(i int) string { return fmt.Sprintf("stored-%d", i) }

// stored measures questions with little and with much history behind: all
// journals are there at once, and are asked in turns.
func (b *bench) stored(ctx context.Context) (_ *section, err error) {
	var fronts []*system.System
	defer func() {
		for _, front := range fronts {
			err = errors.Join(err, front.Close())
		}
	}()
	for _, history := range histories {
		begun := time.Now()
		front, err := b.front(ctx, fmt.Sprintf("stored-%d", history))
		if err != nil {
			return nil, err
		}
		fronts = append(fronts, front)
		if err := b.fill(front, history); err != nil {
			return nil, err
		}
		filled := time.Since(begun)
		if err := front.StartServer(ctx); err != nil {
			return nil, err
		}
		if err := counted(ctx, front, history); err != nil {
			return nil, err
		}
		known := time.Since(begun) - filled
		if err := announced(ctx, front); err != nil {
			return nil, err
		}
		b.sayf("%8s stored after %.0f s, counted after %.1f s more, announced after %.1f s", number(float64(history)), filled.Seconds(), known.Seconds(), (time.Since(begun) - filled).Seconds())
	}
	var half, tail figures
	for round := range b.rounds {
		for _, question := range questions {
			for i, history := range histories {
				took, err := b.askStored(ctx, fronts[i], question, history)
				if err != nil {
					return nil, fmt.Errorf("%s with %d: %w", question.name, history, err)
				}
				key := fmt.Sprintf("%s/%d", question.name, history)
				half.add(key, took.at(50))
				tail.add(key, took.at(99))
				b.sayf("round %d, %-16s %9s stored: p50 %s ms, p99 %s ms", round+1, question.name, number(float64(history)), number(took.at(50)), number(took.at(99)))
			}
		}
	}
	return b.storedSection(&half, &tail)
}

// fill stores deliberations that have completed, as the journal holds them.
func (b *bench) fill(front *system.System, history int) error {
	conn, err := front.NATS()
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := conn.JetStream(nats.PublishAsyncMaxPending(4096))
	if err != nil {
		return err
	}
	asked := request(3)
	for i := range history {
		id := storedID(i)
		end := &pb.DeliberationCompleted{DeliberationId: id, TaskId: asked.GetTaskId(), Results: []*pb.DeliberationResult{
			{AgentId: "agent-0", Proposal: "Keys that miss what the answer depends on; stale answers; a cache that is cold after each release."},
		}}
		for _, event := range []proto.Message{requested(id, asked), end} {
			encoded, err := events.Encode(event, events.Source, "")
			if err != nil {
				return err
			}
			if _, err := js.PublishMsgAsync(&nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data}, nats.StallWait(time.Minute)); err != nil {
				return err
			}
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-time.After(time.Minute):
		return errors.New("the journal does not keep up")
	}
}

// counted waits until the statistics know of all.
func counted(ctx context.Context, front *system.System, history int) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		var health pb.GetStatusResponse
		err := front.Call(ctx, "counted", &pb.GetStatusRequest{IncludeStats: true}, &health)
		if err == nil && health.GetStats().GetCompletedDeliberations() == int64(history) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the statistics are %v: %w", health.GetStats(), errors.Join(ctx.Err(), err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// announced waits until the keeper has told of all ends: it has nothing else
// to do then, as when they had come over days.
func announced(ctx context.Context, front *system.System) error {
	conn, err := front.NATS()
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		consumer, err := js.Consumer(ctx, journal.Stream, "keeper-announce")
		if err != nil {
			return fmt.Errorf("the ends are not announced: %w", err)
		}
		if info := consumer.CachedInfo(); info.NumPending == 0 && info.NumAckPending == 0 {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (b *bench) askStored(ctx context.Context, front *system.System, question question, history int) (*latencies, error) {
	const callers = 16
	all, closeAll, err := wires(front.URL(), callers)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	do := func(ctx context.Context, caller int) error {
		data, err := proto.Marshal(question.ask(history))
		if err != nil {
			return err
		}
		_, err = all[caller].event(ctx, fresh(), question.kind, data)
		return err
	}
	if _, err := open(ctx, callers, question.rate, b.turn(0.5), do); err != nil {
		return nil, err
	}
	return open(ctx, callers, question.rate, b.turn(2.5), do)
}

func (b *bench) storedSection(half, tail *figures) (*section, error) {
	s := &section{title: "With history"}
	s.textf("Three servers, each with a NATS of its own that holds so many deliberations that have completed, asked in turns at an open " +
		"load: 200 statuses of recent deliberations, 20 of any, 100 times the statistics and 20 pages a second.")
	rows := [][]string{{"", "stored", "median, ms", "against 1,000", "99th percentile, ms"}}
	c := chart{name: "stored", title: "Asking, by what is stored: median", unit: "ms"}
	for _, history := range histories {
		c.groups = append(c.groups, number(float64(history)))
	}
	for _, question := range questions {
		one := bar{name: question.name}
		base := half.of(fmt.Sprintf("%s/%d", question.name, histories[0])).median()
		for _, history := range histories {
			key := fmt.Sprintf("%s/%d", question.name, history)
			rows = append(rows, []string{question.name, number(float64(history)), half.of(key).String(), number(half.of(key).median()/base) + " ×", tail.of(key).String()})
			one.values = append(one.values, half.of(key).median())
		}
		c.bars = append(c.bars, one)
		growth := one.values[len(one.values)-1] / base
		b.want(question.name+" with 1,000,000 stored, against 1,000", "flat: within 25 %", number(growth)+" ×", growth <= 1.25)
	}
	s.table(rows...)
	s.plot(c.name, c.title)
	return s, b.draw(c)
}
