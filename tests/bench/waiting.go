package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"rayexecutor/standin"
)

// inFlight is how many agents wait at the same time.
const inFlight = 10_000

// waiting measures agents that wait for a slow model.
func (b *bench) waiting(ctx context.Context) (*section, error) {
	rig, err := b.needRay(ctx)
	if err != nil {
		return nil, err
	}
	s := &section{title: "Agents that wait for a slow model"}
	if err := b.waitingMemory(ctx, rig, s); err != nil {
		return nil, err
	}
	if err := b.waitingOverhead(ctx, rig, s); err != nil {
		return nil, err
	}
	return s, b.waitingBurst(ctx, rig, s)
}

// waitingMemory lets 10,000 agents wait at once and compares the replica's
// memory with what it was before.
func (b *bench) waitingMemory(ctx context.Context, rig *rig, s *section) error {
	rows := [][]string{{"", "agents at once", "memory before, MB", "while they wait, MB", "a waiting agent, KB"}}
	var worst float64
	for _, agents := range []int{1, 16} {
		// A new replica: what an earlier load has left behind must not count.
		if err := rig.renew(ctx); err != nil {
			return err
		}
		pids, err := rig.sys.WorkerPIDs(ctx)
		if err != nil {
			return err
		}
		if err := b.settle(ctx, rig, agents); err != nil {
			return err
		}
		before := memory(pids...)
		while, err := b.hold(ctx, rig, agents, pids)
		if err != nil {
			return err
		}
		each := (while - before) / inFlight
		worst = max(worst, each)
		rows = append(rows, []string{
			fmt.Sprintf("ours, one replica, %d a deliberation", agents), number(inFlight),
			number(before / 1e6), number(while / 1e6), number(each / 1e3),
		})
		b.sayf("%s", strings.Join(rows[len(rows)-1], ", "))
	}
	row, err := b.holdActors(ctx, rig)
	if err != nil {
		return err
	}
	s.textf("The model takes a minute, so that all of them wait at the same time; it would stream to who asks for that, " +
		"which nobody here does. Memory is what the processes have to themselves (private pages), of the worker's replica, or of the actors.")
	s.table(append(rows, row)...)
	b.want("memory of a waiting agent", "less than 20 KB", number(worst/1e3)+" KB", worst < 20e3)
	return nil
}

// renew replaces the replica by a new one.
func (r *rig) renew(ctx context.Context) error {
	before, err := r.sys.WorkerPIDs(ctx)
	if err != nil {
		return err
	}
	if _, err := r.sys.KillWorkers(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		now, err := r.sys.WorkerPIDs(ctx)
		if err != nil {
			return err
		}
		if len(now) == 1 && now[0] != 0 && !slices.Contains(before, now[0]) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// settle runs some deliberations, so that what is loaded late is there.
func (b *bench) settle(ctx context.Context, rig *rig, agents int) error {
	do, closeAll, err := rig.deliberate(agents, modelName)
	if err != nil {
		return err
	}
	defer closeAll()
	_, err = closed(ctx, 8, b.turn(2), do)
	return err
}

// hold has all agents wait at once, and returns the memory meanwhile.
func (b *bench) hold(ctx context.Context, rig *rig, agents int, pids []int) (float64, error) {
	do, closeAll, err := rig.deliberate(agents, longModel)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	holding, cancel := context.WithTimeout(ctx, longDelay+patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- each(holding, inFlight/agents, do, nil)
	}()
	begun := time.Now()
	full := func(seen standin.Snapshot) bool { return seen.Of(longModel).Running >= inFlight/agents*agents }
	waiting, done := context.WithTimeout(ctx, longDelay)
	defer done()
	if err := rig.model.Wait(waiting, full); err != nil {
		return 0, fmt.Errorf("%d agents do not wait at once, but %v: %w", inFlight, rig.model.Snapshot().Of(longModel), err)
	}
	b.sayf("%d agents, %d a deliberation, wait after %.1f s", inFlight, agents, time.Since(begun).Seconds())
	found := memory(pids...)
	return found, <-ended
}

// actorsHeld is how many actors wait at once: each takes most of a second of a
// core to start.
const actorsHeld = 48

// holdActors has actors wait in the same way.
func (b *bench) holdActors(ctx context.Context, rig *rig) ([]string, error) {
	count := actorsHeld
	if b.brisk {
		count = 4
	}
	if err := rig.model.SetBehaviour(longModel, standin.Behaviour{Delay: 24 * time.Hour}); err != nil {
		return nil, err
	}
	all, closeAll, err := wires(rig.actors, 1)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	begun := time.Now()
	body := fmt.Appendf(nil, `{"model":%q,"agents":%d}`, longModel, count)
	if _, err := all[0].post(ctx, "/deliberations", body, "Content-Type", "application/json"); err != nil {
		return nil, err
	}
	waiting, done := context.WithTimeout(ctx, 5*time.Minute)
	defer done()
	if err := rig.model.Wait(waiting, func(seen standin.Snapshot) bool { return seen.Of(longModel).Running >= count }); err != nil {
		return nil, err
	}
	b.sayf("%d actors wait after %.0f s", count, time.Since(begun).Seconds())
	pids, err := processes("ray::Agent")
	if err != nil {
		return nil, err
	}
	found := memory(pids...)
	return []string{
		actorsCall + fmt.Sprintf(", after %.0f s of starting them", time.Since(begun).Seconds()), number(float64(count)), "0",
		number(found / 1e6), number(found / 1e3 / float64(len(pids))),
	}, nil
}

// waitingOverhead measures what is added to a model that takes 2 s.
func (b *bench) waitingOverhead(ctx context.Context, rig *rig, s *section) error {
	const rate = 300
	var half, tail figures
	for range b.rounds {
		do, closeAll, err := rig.deliberate(1, slowModel)
		if err != nil {
			return err
		}
		took, err := open(ctx, 4*rate, rate, b.turn(6), do)
		closeAll()
		if err != nil {
			return err
		}
		half.add(oneReplica, took.at(50)-2000)
		tail.add(oneReplica, took.at(99)-2000)
		bare, err := rig.bare.order(map[string]any{"mode": "open", "model": slowModel, "agents": 1, "rate": rate, "seconds": b.turn(6).Seconds()})
		if err != nil {
			return err
		}
		half.add(bareClient, bare["p50"]-2000)
		tail.add(bareClient, bare["p99"]-2000)
		b.sayf("above 2 s: ours %s ms, bare %s ms", half.of(oneReplica), half.of(bareClient))
	}
	s.textf("What is added to a model that takes 2 s, at an open load of %d deliberations of one agent a second, %d of them under way:", rate, 2*rate)
	s.table([]string{"", "median, ms", "99th percentile, ms"},
		[]string{oneReplica, half.of(oneReplica).String(), tail.of(oneReplica).String()},
		[]string{bareClient, half.of(bareClient).String(), tail.of(bareClient).String()})
	return nil
}

// waitingBurst asks 10,000 agents at once, of a model that takes 2 s.
func (b *bench) waitingBurst(ctx context.Context, rig *rig, s *section) error {
	const agents = 16
	do, closeAll, err := rig.deliberate(agents, slowModel)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := rig.model.SetBehaviour(slowModel, standin.Behaviour{Delay: 2 * time.Second}); err != nil {
		return err
	}
	rig.model.Reset()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	begun := time.Now()
	if err := each(ctx, inFlight/agents, do, nil); err != nil {
		return err
	}
	ours, most := time.Since(begun).Seconds(), rig.model.Snapshot().Of(slowModel).MaxRunning
	rig.model.Reset()
	bare, err := rig.bare.order(map[string]any{"mode": "burst", "model": slowModel, "agents": inFlight})
	if err != nil {
		return err
	}
	bareMost := rig.model.Snapshot().Of(slowModel).MaxRunning
	s.textf("10,000 agents asked at once, %d a deliberation, of a model that takes 2 s: until the last has ended. They would all wait "+
		"at the same time only if 5,000 calls a second could be made, which Python cannot on these cores:", agents)
	s.table([]string{"", "seconds", "most that waited at once"},
		[]string{oneReplica, number(ours), number(float64(most))},
		[]string{bareClient, number(bare["seconds"]), number(float64(bareMost))})
	b.sayf("10,000 at once: ours %.1f s, bare %.1f s", ours, bare["seconds"])
	return nil
}

// memory is what processes have to themselves, in bytes.
func memory(pids ...int) float64 {
	var sum float64
	for _, pid := range pids {
		data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); strings.HasPrefix(line, "Private_") {
				size, _ := strconv.ParseFloat(fields[1], 64)
				sum += size * 1024
			}
		}
	}
	return sum
}

// processes are those whose command begins with a name.
func processes(name string) ([]int, error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(line), name) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
