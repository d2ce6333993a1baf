package faults

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
)

// heal takes a fault away, and returns once what it needs for that is there.
type heal func(context.Context) error

// inject makes a fault happen.
func (r *run) inject(ctx context.Context, f Fault) (heal, error) {
	which := int(f.Which % 2)
	switch f.Kind {
	case KillFunction:
		return starts(r.rig.functions[which]), r.rig.functions[which].kill()
	case StopFunction:
		return starts(r.rig.functions[which]), r.rig.functions[which].stop()
	case PauseFunction:
		return pauses(r.rig.functions[which])
	case KillKeeper:
		return starts(r.rig.keepers[which]), r.rig.keepers[which].kill()
	case PauseKeeper:
		return pauses(r.rig.keepers[which])
	case KillNATS, KillNATSLeader, PauseNATSLeader, SplitNATS, KillAllNATS:
		return r.injectNATS(ctx, f)
	case FailModel:
		return r.injectModel(standin.Behaviour{Status: 503, RetryAfter: "1"})
	case HangModel:
		return r.injectModel(standin.Behaviour{Hang: true})
	case BreakModel:
		return r.injectModel(standin.Behaviour{Cut: true})
	case KillReplica, PauseReplica, Poison, RollWorker, ScaleWorker, SkewClock, KillNode, KillHead:
		return r.injectRay(ctx, f)
	case Flood:
		return r.flood(f), nil
	case Backlog:
		return r.backlog(f), nil
	case Expire:
		return r.expire(ctx, f)
	default:
		return r.injectLine(f.Kind)
	}
}

func starts(p *part) heal { return func(context.Context) error { return p.start() } }

func pauses(p *part) (heal, error) {
	return func(context.Context) error { return p.running.Resume() }, p.running.Pause()
}

func (r *run) injectLine(kind Kind) (heal, error) {
	l, ok := map[Kind]*line{
		CutFunctions: r.rig.functionsToNATS, SlowFunctions: r.rig.functionsToNATS, CutKeepers: r.rig.keeperToNATS,
		CutWorkers: r.rig.workersToNATS, MuteWorkers: r.rig.workersToNATS, ResetWorkers: r.rig.workersToNATS,
		SlowWorkers: r.rig.workersToNATS, NarrowWorkers: r.rig.workersToNATS, CutModel: r.rig.toModel,
	}[kind]
	if !ok {
		return nil, fmt.Errorf("nobody knows how to make: %s", kind)
	}
	t, ok := map[Kind]toxins{
		MuteWorkers: mute, ResetWorkers: reset, SlowWorkers: far, SlowFunctions: far, NarrowWorkers: narrow,
	}[kind]
	if ok {
		return func(context.Context) error { return l.cure() }, l.afflict(t)
	}
	return func(context.Context) error { return l.mend() }, l.cut()
}

func (r *run) injectModel(fault standin.Behaviour) (heal, error) {
	return func(context.Context) error { return r.rig.model.heal() }, r.rig.model.fail(fault)
}

func (r *run) injectNATS(ctx context.Context, f Fault) (heal, error) {
	cluster := r.rig.nats
	// One server fewer is borne, two are not: the next fault waits.
	whole := func(ctx context.Context, err error) error {
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, healTime)
		defer cancel()
		return cluster.whole(ctx)
	}
	i := int(f.Which % servers)
	if f.Kind == KillNATSLeader || f.Kind == PauseNATSLeader {
		i = cluster.leader(ctx)
	}
	switch f.Kind {
	case PauseNATSLeader:
		resume, err := pauses(cluster.parts[i])
		return func(ctx context.Context) error { return whole(ctx, resume(ctx)) }, err
	case SplitNATS:
		return func(ctx context.Context) error { return whole(ctx, cluster.join(i)) }, cluster.split(i)
	case KillAllNATS:
		var killed, started []error
		for _, p := range cluster.parts {
			killed = append(killed, p.kill())
		}
		return func(ctx context.Context) error {
			for _, p := range cluster.parts {
				started = append(started, p.start())
			}
			return whole(ctx, errors.Join(started...))
		}, errors.Join(killed...)
	default:
		return func(ctx context.Context) error { return whole(ctx, cluster.parts[i].start()) }, cluster.parts[i].kill()
	}
}

// healTime is how long a part may take to be whole again on busy processors.
const healTime = 5 * time.Minute

func (r *run) injectRay(ctx context.Context, f Fault) (heal, error) {
	cluster := r.rig.ray
	complete := func(err error) heal {
		return func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, healTime)
			defer cancel()
			return errors.Join(err, cluster.complete(ctx))
		}
	}
	switch f.Kind {
	case KillReplica:
		victim, err := cluster.some(ctx, f.Which)
		if err != nil {
			return nil, err
		}
		return complete(nil), r.rig.ray.signal(victim, syscall.SIGKILL)
	case PauseReplica:
		return r.pauseReplica(ctx, f)
	case Poison:
		return r.poison(ctx, f)
	case RollWorker:
		return complete(cluster.roll(ctx)), nil
	case ScaleWorker:
		err := cluster.deploy(ctx, 1)
		return func(ctx context.Context) error {
			return errors.Join(err, cluster.deploy(ctx, cluster.options.Replicas))
		}, nil
	case SkewClock:
		return r.skew(ctx, f)
	case KillNode:
		i := int(f.Which % nodes)
		err := cluster.nodes[i].Kill()
		return func(ctx context.Context) error {
			return complete(cluster.restartNode(ctx, i))(ctx)
		}, err
	default: // KillHead
		err := cluster.head.Kill()
		return func(ctx context.Context) error { return cluster.restartHead(ctx) }, err
	}
}

// pauseReplica stops a replica for longer than the ack wait: others have what
// it holds by the time it goes on.
func (r *run) pauseReplica(ctx context.Context, f Fault) (heal, error) {
	victim, err := r.rig.ray.some(ctx, f.Which)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		sleep(ctx, r.rig.ackWait)
		// Whatever happens it goes on: Serve could not even stop it.
		return errors.Join(r.rig.ray.signal(victim, syscall.SIGCONT), r.rig.ray.complete(context.WithoutCancel(ctx)))
	}, r.rig.ray.signal(victim, syscall.SIGSTOP)
}

// skew makes the clock of a node jump. That its replicas live by it is checked
// too.
func (r *run) skew(ctx context.Context, f Fault) (heal, error) {
	all, err := r.rig.ray.replicas(ctx)
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		if own := r.rig.ray.skewed(one.PID); own != (one.NodeIP == r.rig.ray.nodes[nodes-1].IP()) {
			return nil, fmt.Errorf("replica %s on %s: its clock is wrong: %t", one.ID, one.NodeIP, own)
		}
	}
	offset := time.Duration(int(f.Which%49)-24) * time.Hour
	return func(context.Context) error { return nil }, r.rig.ray.setClock(offset)
}

// poison submits a deliberation that kills the replica of whoever asks its
// model, each time; it heals when the workers have given it up.
func (r *run) poison(ctx context.Context, f Fault) (heal, error) {
	ask := Ask{
		ID: fmt.Sprintf("f%d%s%d", r.plan.Seed, poisonMark, f.Which), Models: []string{Slow}, Timeout: shortAge - 10*time.Second,
	}
	if !r.submit(ctx, ask) {
		return nil, errors.New("the poison was not taken")
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, ask.Timeout+time.Minute)
		defer cancel()
		return errors.Join(until(ctx, ask.ID+" has ended", func(ctx context.Context) error {
			_, err := r.last(ctx, events.EndSubject(ask.ID))
			return err
		}), r.rig.ray.complete(ctx))
	}, nil
}

// killAsker kills the replica that started a deliberation last.
func (r *run) killAsker(id string) {
	ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
	defer cancel()
	data, err := r.last(ctx, events.Subject("started", "*", id))
	if err != nil {
		r.notef("poison %s: %v", id, err)
		return
	}
	var started pb.DeliberationStarted
	if err := proto.Unmarshal(data, &started); err != nil {
		r.notef("poison %s: %v", id, err)
		return
	}
	all, err := r.rig.ray.replicas(ctx)
	if err != nil {
		r.notef("poison %s: %v", id, err)
		return
	}
	for _, one := range all {
		if one.ID == started.GetReplica() {
			r.notef("poison %s, attempt %d: kills replica %s: %v", id, started.GetAttempt(), one.ID, r.rig.ray.signal(one, syscall.SIGKILL))
			return
		}
	}
	r.notef("poison %s, attempt %d: no replica %s among %v", id, started.GetAttempt(), started.GetReplica(), all)
}

// last reads the journal's last message on a subject.
func (r *run) last(ctx context.Context, subject string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	stream, err := r.rig.nats.js.Stream(ctx, journal.Stream)
	if err != nil {
		return nil, err
	}
	message, err := stream.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return nil, err
	}
	return message.Data, nil
}
