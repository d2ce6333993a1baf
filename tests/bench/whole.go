package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/standin"
)

// sizes are how many agents deliberate.
var sizes = []int{1, 3, 16}

// What is compared end to end.
const (
	oneReplica  = "ours, one replica"
	twoReplicas = "ours, two replicas"
	bareClient  = "bare aiohttp client"
	oneJob      = "a Ray job each"
)

// wholeRate is the open load, in deliberations a second, by the number of
// agents: little enough for everybody who starts no process.
var wholeRate = map[int]float64{1: 60, 3: 40, 16: 10}

// busy is how many deliberations are under way where the most is measured.
var busy = map[int]int{1: 256, 3: 96, 16: 32}

// wholeFigures are a subject's, by name and number of agents.
type wholeFigures struct{ most, half, tail figures }

func wholeKey(name string, agents int) string { return fmt.Sprintf("%s/%d", name, agents) }

// whole measures from a submission to its end, with a model that answers at
// once.
func (b *bench) whole(ctx context.Context) (*section, error) {
	rig, err := b.needRay(ctx)
	if err != nil {
		return nil, err
	}
	var found wholeFigures
	for round := range b.rounds {
		for _, replicas := range []struct{ name, count string }{{oneReplica, "1"}, {twoReplicas, "2"}} {
			if _, err := rig.sys.RunWith(ctx, []string{"WORKER_REPLICAS=" + replicas.count}, "deploy"); err != nil {
				return nil, err
			}
			for _, agents := range sizes {
				if err := b.wholeTurn(ctx, rig, replicas.name, agents, &found); err != nil {
					return nil, fmt.Errorf("%s, %d agents: %w", replicas.name, agents, err)
				}
			}
		}
		for _, agents := range sizes {
			if err := b.serveTurn(ctx, rig, agents, &found); err != nil {
				return nil, fmt.Errorf("%s, %d agents: %w", serveCall, agents, err)
			}
			if err := b.bareTurn(rig, agents, &found); err != nil {
				return nil, fmt.Errorf("%s, %d agents: %w", bareClient, agents, err)
			}
			if round > 0 && agents > 3 {
				continue // seconds each: the range of the others tells enough
			}
			if err := b.processTurns(ctx, rig, agents, &found); err != nil {
				return nil, err
			}
		}
		b.sayf("round %d of %d is done", round+1, b.rounds)
	}
	if _, err := rig.sys.RunWith(ctx, nil, "deploy"); err != nil {
		return nil, err
	}
	return b.wholeSection(&found)
}

// wholeTurn measures the whole system: submitted by CloudEvent, and over once
// a consumer of the journal has heard the end.
func (b *bench) wholeTurn(ctx context.Context, rig *rig, name string, agents int, found *wholeFigures) error {
	do, closeAll, err := rig.deliberate(agents, modelName)
	if err != nil {
		return err
	}
	defer closeAll()
	return b.wholeLoad(ctx, name, agents, do, found)
}

// deliberate is a call of the whole system. Callers share some connections:
// what waits for its end needs none, and 10,000 would not be granted.
func (r *rig) deliberate(agents int, model string) (call, func(), error) {
	all, closeAll, err := wires(r.sys.URL(), 256)
	if err != nil {
		return nil, nil, err
	}
	idle := make(chan *wire, len(all))
	for _, one := range all {
		idle <- one
	}
	return func(ctx context.Context, _ int) error {
		asked := request(agents)
		asked.DeliberationId, asked.VllmModel, asked.Constraints = fresh(), model, nil
		data, err := proto.Marshal(asked)
		if err != nil {
			return err
		}
		end := r.ends.expect(asked.GetDeliberationId())
		wire := <-idle
		_, err = wire.event(ctx, asked.GetDeliberationId(), "ray_executor.v1.ExecuteDeliberationRequest", data)
		idle <- wire
		if err != nil {
			return err
		}
		return completed(ctx, asked.GetDeliberationId(), end)
	}, closeAll, nil
}

// serveTurn measures the Ray Serve application, whose answer is the end.
func (b *bench) serveTurn(ctx context.Context, rig *rig, agents int, found *wholeFigures) error {
	all, closeAll, err := wires(rig.serving, 512)
	if err != nil {
		return err
	}
	defer closeAll()
	body := fmt.Appendf(nil, `{"model":%q,"agents":%d}`, modelName, agents)
	return b.wholeLoad(ctx, serveCall, agents, func(ctx context.Context, caller int) error {
		_, err := all[caller].post(ctx, "/", body, "Content-Type", "application/json")
		return err
	}, found)
}

func (b *bench) wholeLoad(ctx context.Context, name string, agents int, do call, found *wholeFigures) error {
	if _, err := closed(ctx, 8, b.turn(0.5), do); err != nil { // connections, caches
		return err
	}
	rate, err := closed(ctx, busy[agents], b.turn(4), do)
	if err != nil {
		return err
	}
	took, err := open(ctx, 512, wholeRate[agents], b.turn(3), do)
	if err != nil {
		return err
	}
	b.note(found, name, agents, rate, took.at(50), took.at(99))
	return nil
}

func (b *bench) note(found *wholeFigures, name string, agents int, rate, half, tail float64) {
	key := wholeKey(name, agents)
	found.most.add(key, rate)
	found.half.add(key, half)
	found.tail.add(key, tail)
	b.sayf("%-24s %2d agents: %8s deliberations/s, p50 %s ms, p99 %s ms", name, agents, number(rate), number(half), number(tail))
}

// bareTurn has the bare client do the same.
func (b *bench) bareTurn(rig *rig, agents int, found *wholeFigures) error {
	order := func(order map[string]any) (map[string]float64, error) {
		order["model"], order["agents"] = modelName, agents
		return rig.bare.order(order)
	}
	if _, err := order(map[string]any{"mode": "closed", "callers": 8, "seconds": b.turn(0.5).Seconds()}); err != nil {
		return err
	}
	most, err := order(map[string]any{"mode": "closed", "callers": busy[agents], "seconds": b.turn(4).Seconds()})
	if err != nil {
		return err
	}
	took, err := order(map[string]any{"mode": "open", "rate": wholeRate[agents], "seconds": b.turn(3).Seconds()})
	if err != nil {
		return err
	}
	b.note(found, bareClient, agents, most["rate"], took["p50"], took["p99"])
	return nil
}

// processTurns measures what starts processes, one deliberation after the
// other: two or more at a time only share the cores.
func (b *bench) processTurns(ctx context.Context, rig *rig, agents int, found *wholeFigures) error {
	all, closeAll, err := wires(rig.actors, 1)
	if err != nil {
		return err
	}
	defer closeAll()
	body := fmt.Appendf(nil, `{"model":%q,"agents":%d,"wait":true}`, modelName, agents)
	for _, one := range []struct {
		name string
		do   call
	}{
		{oneJob, func(ctx context.Context, _ int) error {
			id, err := rig.submitJob(ctx, "job.py", rig.modelURL, modelName, fmt.Sprint(agents))
			if err != nil {
				return err
			}
			return rig.awaitJob(ctx, id)
		}},
		{actorsCall, func(ctx context.Context, _ int) error {
			_, err := all[0].post(ctx, "/deliberations", body, "Content-Type", "application/json")
			return err
		}},
	} {
		begun := time.Now()
		if err := one.do(ctx, 0); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		took := time.Since(begun)
		b.note(found, one.name, agents, 1/took.Seconds(), float64(took)/1e6, float64(took)/1e6)
	}
	return nil
}

// answered waits until a model has answered so often.
func (r *rig) answered(ctx context.Context, model string, often uint64) error {
	return r.model.Wait(ctx, func(seen standin.Snapshot) bool { return seen.Of(model).Answered >= often })
}

func (b *bench) wholeSection(found *wholeFigures) (*section, error) {
	s := &section{title: "End to end"}
	s.textf("From a submission, as a CloudEvent, until a consumer of the journal has heard of the end; the model answers at once. " +
		"*Most* is with 256, 96 and 32 deliberations of 1, 3 and 16 agents under way; latency is at an open load of 60, 40 and 10 " +
		"a second. The bare client calls the model, with as many calls under way, and does nothing else: what no worker in Python " +
		"can beat, and it has both cores to itself and the model. Jobs and actors are asked one after the other; 16 agents once.")
	rows := [][]string{{"", "agents", "deliberations a second", "agents a second", "median, ms", "99th percentile, ms"}}
	rates := chart{name: "whole-rate", title: "Agents a second, end to end", unit: "agents a second"}
	medians := chart{name: "whole-latency", title: "Latency end to end, median", unit: "ms"}
	for _, agents := range sizes {
		rates.groups = append(rates.groups, fmt.Sprintf("%d agents", agents))
	}
	medians.groups = rates.groups
	for _, name := range []string{bareClient, oneReplica, twoReplicas, serveCall, oneJob, actorsCall} {
		fast, brief := bar{name: name}, bar{name: name}
		for _, agents := range sizes {
			key := wholeKey(name, agents)
			most := found.most.of(key)
			tail := found.tail.of(key).String()
			if name == oneJob || name == actorsCall {
				tail = "" // one at a time has no tail
			}
			rows = append(rows, []string{name, fmt.Sprint(agents), most.String(), number(most.median() * float64(agents)), found.half.of(key).String(), tail})
			fast.values = append(fast.values, most.median()*float64(agents))
			brief.values = append(brief.values, found.half.of(key).median())
		}
		rates.bars, medians.bars = append(rates.bars, fast), append(medians.bars, brief)
	}
	s.table(rows...)
	b.wholeTargets(found)
	for _, c := range []chart{rates, medians} {
		if err := b.draw(c); err != nil {
			return nil, err
		}
		s.plot(c.name, c.title)
	}
	return s, nil
}

func (b *bench) wholeTargets(found *wholeFigures) {
	for _, agents := range sizes {
		above := found.half.of(wholeKey(oneReplica, agents)).median() - found.half.of(wholeKey(bareClient, agents)).median()
		b.want(fmt.Sprintf("end to end, %d agents, median above the bare call of the model", agents), "6 ms or less", number(above)+" ms", above <= 6)
	}
	single := found.most.of(wholeKey(oneReplica, 1)).median()
	b.want("deliberations of one agent through one replica", "1,500 a second or more", number(single), single >= 1500)
	share := found.most.of(wholeKey(oneReplica, 16)).median() / found.most.of(wholeKey(bareClient, 16)).median()
	b.want("16 agents, one replica against the bare client", "70 % or more", fmt.Sprintf("%.0f %%", 100*share), share >= 0.7)
}
