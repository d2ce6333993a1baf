package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
	"rayexecutor/tests/system"
)

// callers are how many call at once.
var callers = []int{1, 16, 256}

// The doors, and what they are compared with.
const (
	rawPublish = "raw JetStream compare-and-set"
	onlyHTTP   = "net/http that only answers"
	byEvent    = "CloudEvent, binary, protobuf"
	byBatch    = "CloudEvents, 64 a batch"
	byREST     = "REST, JSON"
	byGRPC     = "gRPC"
	serveCall  = "Ray Serve HTTP call"
	jobsSubmit = "Ray Jobs REST submit"
	actorsCall = "FastAPI + Ray actors"
)

// commonRate is the most that is asked of anyone where a latency is told, in
// requests a second, by the number of callers; who cannot do twice as much is
// asked for half of what it can.
var commonRate = map[int]float64{1: 200, 16: 1000, 256: 2000}

// taken counts what was sent, over all subjects, so that every id is new.
var taken atomic.Int64

// batch is how many submissions the door of batches takes at a time.
const batch = 64

// longestTimeout is in seconds: what is accepted here outlives the run.
const longestTimeout = 86_400

func fresh() string { return fmt.Sprintf("bench-%d", taken.Add(1)) }

// request is what is submitted.
func request(agents int) *pb.ExecuteDeliberationRequest {
	asked := &pb.ExecuteDeliberationRequest{
		TaskId: "task-1", Role: "DEV", Constraints: &pb.TaskConstraints{TimeoutSeconds: longestTimeout},
		TaskDescription: "Name three risks of caching the answers of a model, and how each would be noticed in production.",
	}
	for n := range agents {
		asked.Agents = append(asked.Agents, &pb.Agent{Id: fmt.Sprintf("agent-%d", n)})
	}
	return asked
}

// door is a way in that can be called from any number of connections.
type door struct {
	name string
	// each is how many submissions a call makes.
	each int
	// open connects callers; the second result disconnects them.
	open func(callers int) (call, func(), error)
}

// accept measures how submissions are taken: nothing works on them.
func (b *bench) accept(ctx context.Context) (*section, error) {
	rig, err := b.needRay(ctx)
	if err != nil {
		return nil, err
	}
	// Two servers of NATS: nobody reads what the raw publisher writes.
	ours, err := b.front(ctx, "front")
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	if err := ours.StartServer(ctx); err != nil {
		return nil, err
	}
	raw, err := b.front(ctx, "raw")
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	answering, stopAnswering, err := startAnswering(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAnswering()
	doors := []door{rawDoor(raw), eventDoor(onlyHTTP, answering), eventDoor(byEvent, ours.URL()), batchDoor(ours.URL()), restDoor(ours.URL()), grpcDoor(ours.URL()), serveDoor(rig.serving)}
	var most, half, tail figures
	for round := range b.rounds {
		for _, n := range callers {
			for _, door := range doors {
				key := fmt.Sprintf("%s/%d", door.name, n)
				if err := b.acceptTurn(ctx, door, n, key, &most, &half, &tail); err != nil {
					return nil, fmt.Errorf("%s with %d callers: %w", door.name, n, err)
				}
				b.sayf("round %d, %3d callers, %-30s %8s/s, p50 %s ms, p99 %s ms", round+1, n, door.name,
					number(most.of(key)[round]), number(half.of(key)[round]), number(tail.of(key)[round]))
			}
		}
	}
	var slow figures
	if err := b.slowDoors(ctx, rig, &slow); err != nil {
		return nil, err
	}
	return b.acceptSection(doors, &most, &half, &tail, &slow)
}

// front is a system of NATS and the journal, without a Ray.
func (b *bench) front(ctx context.Context, name string) (*system.System, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	sys, err := system.New(system.Options{
		Dir: dir, ModelURL: "http://127.0.0.1:9", Model: modelName, Settings: []string{"JOURNAL_MAX_BYTES=-1"},
	})
	if err != nil {
		return nil, err
	}
	if err := sys.StartJournal(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", err, sys.Close())
	}
	return sys, nil
}

// acceptTurn measures one door: first what it can do, then how fast it answers
// at a load below that.
func (b *bench) acceptTurn(ctx context.Context, door door, n int, key string, most, half, tail *figures) error {
	do, closeAll, err := door.open(n)
	if err != nil {
		return err
	}
	defer closeAll()
	rate, err := closed(ctx, n, b.turn(1.5), do)
	if err != nil {
		return err
	}
	load := min(commonRate[n]/float64(door.each), rate/2)
	took, err := open(ctx, n, load, b.turn(2), do)
	if err != nil {
		return err
	}
	most.add(key, rate*float64(door.each))
	half.add(key, took.at(50))
	tail.add(key, took.at(99))
	return nil
}

// slowDoors measures what starts a process for each submission: one at a time.
// Jobs are awaited, and so is what the actors do, so that the machine is free
// for the next.
func (b *bench) slowDoors(ctx context.Context, rig *rig, slow *figures) error {
	all, closeAll, err := wires(rig.actors, 1)
	if err != nil {
		return err
	}
	defer closeAll()
	for range b.rounds {
		begun := time.Now()
		id, err := rig.submitJob(ctx, "job.py", rig.modelURL, modelName, "3")
		if err != nil {
			return err
		}
		slow.add(jobsSubmit, float64(time.Since(begun))/1e6)
		if err := rig.awaitJob(ctx, id); err != nil {
			return err
		}
		seen := rig.model.Snapshot().Of(modelName).Answered
		begun = time.Now()
		if _, err := all[0].post(ctx, "/deliberations", fmt.Appendf(nil, `{"model":%q,"agents":3}`, modelName), "Content-Type", "application/json"); err != nil {
			return err
		}
		slow.add(actorsCall, float64(time.Since(begun))/1e6)
		if err := rig.answered(ctx, modelName, seen+3); err != nil {
			return err
		}
		b.sayf("%s %s ms, %s %s ms", jobsSubmit, slow.of(jobsSubmit), actorsCall, slow.of(actorsCall))
	}
	return nil
}

func rawDoor(sys *system.System) door {
	return door{rawPublish, 1, func(int) (call, func(), error) {
		conn, err := sys.NATS()
		if err != nil {
			return nil, nil, err
		}
		js, err := jetstream.New(conn)
		if err != nil {
			return nil, nil, err
		}
		asked := request(3)
		return func(ctx context.Context, _ int) error {
			id := fresh()
			encoded, err := events.Encode(requested(id, asked), events.Source, "")
			if err != nil {
				return err
			}
			_, err = js.PublishMsg(ctx, &nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data},
				jetstream.WithExpectLastSequenceForSubject(0, events.HistorySubject(id)))
			return err
		}, conn.Close, nil
	}}
}

// requested is a request as the journal holds it.
func requested(id string, asked *pb.ExecuteDeliberationRequest) *pb.DeliberationRequested {
	return &pb.DeliberationRequested{
		DeliberationId: id, TaskId: asked.GetTaskId(), Request: asked, Pool: deliberation.DefaultPool,
		TimeoutSeconds: longestTimeout, MaxRetries: deliberation.DefaultMaxRetries,
		VllmUrl: "http://127.0.0.1:9", VllmModel: modelName,
	}
}

func eventDoor(name, url string) door {
	return door{name, 1, func(n int) (call, func(), error) {
		data, err := proto.Marshal(request(3))
		if err != nil {
			return nil, nil, err
		}
		all, closeAll, err := wires(url, n)
		return func(ctx context.Context, caller int) error {
			_, err := all[caller].event(ctx, fresh(), "ray_executor.v1.ExecuteDeliberationRequest", data)
			return err
		}, closeAll, err
	}}
}

func batchDoor(url string) door {
	return door{byBatch, batch, func(n int) (call, func(), error) {
		data, err := proto.Marshal(request(3))
		if err != nil {
			return nil, nil, err
		}
		event := `{"specversion":"1.0","source":"/bench","type":"ray_executor.v1.ExecuteDeliberationRequest",` +
			`"datacontenttype":"application/protobuf","data_base64":"` + base64.StdEncoding.EncodeToString(data) + `","id":"`
		all, closeAll, err := wires(url, n)
		return func(ctx context.Context, caller int) error {
			body := []byte{'['}
			for i := range batch {
				if i > 0 {
					body = append(body, ',')
				}
				body = append(append(append(body, event...), fresh()...), `"}`...)
			}
			answer, err := all[caller].post(ctx, "/", append(body, ']'), "Content-Type", "application/cloudevents-batch+json")
			if taken := bytes.Count(answer, []byte(`"type":"ray_executor.v1.ExecuteDeliberationResponse"`)); err == nil && taken != batch {
				err = fmt.Errorf("%d of a batch are taken: %s", taken, answer)
			}
			return err
		}, closeAll, err
	}}
}

func restDoor(url string) door {
	return door{byREST, 1, func(n int) (call, func(), error) {
		data, err := protojson.Marshal(request(3))
		if err != nil {
			return nil, nil, err
		}
		all, closeAll, err := wires(url, n)
		return func(ctx context.Context, caller int) error {
			_, err := all[caller].post(ctx, "/v1/deliberations", data, "Content-Type", events.JSON)
			return err
		}, closeAll, err
	}}
}

// grpcDoor calls over one connection, as gRPC's clients do.
func grpcDoor(url string) door {
	return door{byGRPC, 1, func(int) (call, func(), error) {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		transport := &http.Transport{Protocols: &protocols}
		client := rayexecutorv1connect.NewRayExecutorServiceClient(&http.Client{Transport: transport}, url, connect.WithGRPC())
		asked := request(3)
		return func(ctx context.Context, _ int) error {
			_, err := client.ExecuteDeliberation(ctx, asked)
			return err
		}, transport.CloseIdleConnections, nil
	}}
}

// serveDoor has the application remember the request, and no more.
func serveDoor(url string) door {
	return door{serveCall, 1, func(n int) (call, func(), error) {
		data, err := protojson.Marshal(request(3))
		if err != nil {
			return nil, nil, err
		}
		all, closeAll, err := wires(url, n)
		return func(ctx context.Context, caller int) error {
			_, err := all[caller].post(ctx, "/accept", data, "Content-Type", events.JSON)
			return err
		}, closeAll, err
	}}
}

func (b *bench) acceptSection(doors []door, most, half, tail, slow *figures) (*section, error) {
	s := &section{title: "Accepting a deliberation"}
	s.textf("Three agents; the answer comes once the journal holds it, and nothing works on it. *Most* is what so many callers get " +
		"who wait for nothing but their answers. Latency is at an open load of half of that, at most 200, 1,000 and 2,000 a second " +
		"for 1, 16 and 256 callers; a batch counts as its submissions, and its latency is the whole's. gRPC's callers share one " +
		"connection, as its clients do. Raw publishing has no door, and the server of net/http nothing behind it: who has both, and " +
		"costs nothing itself, would be at *both in a row*. The Ray Serve application only appends to a list in memory. What starts processes is asked one at a time: each submission of a job starts a supervisor, " +
		"each agent of the other service an actor, which then take the cores for seconds.")
	rows := [][]string{{"", "callers", "most a second", "of raw", "median, ms", "99th percentile, ms"}}
	rates, medians := chart{"accept-rate", "Accepted a second", "a second", nil, nil}, chart{"accept-latency", "Latency of accepting, median", "ms", nil, nil}
	for _, n := range callers {
		rates.groups = append(rates.groups, fmt.Sprintf("%d callers", n))
	}
	medians.groups = rates.groups
	for _, door := range doors {
		fast, brief := bar{name: door.name}, bar{name: door.name}
		for _, n := range callers {
			key := fmt.Sprintf("%s/%d", door.name, n)
			share := most.of(key).median() / most.of(fmt.Sprintf("%s/%d", rawPublish, n)).median()
			rows = append(rows, []string{door.name, fmt.Sprint(n), most.of(key).String(), fmt.Sprintf("%.0f %%", 100*share), half.of(key).String(), tail.of(key).String()})
			fast.values, brief.values = append(fast.values, most.of(key).median()), append(brief.values, half.of(key).median())
		}
		rates.bars, medians.bars = append(rates.bars, fast), append(medians.bars, brief)
	}
	for _, name := range slow.names {
		rows = append(rows, []string{name, "1", "", "", slow.of(name).String(), ""})
	}
	s.table(rows...)
	// The cores are full in either: what both cost adds up.
	row := 1 / (1/most.of(rawPublish+"/256").median() + 1/most.of(onlyHTTP+"/256").median())
	s.textf("Both in a row, at 256 callers: %s a second, %.0f %% of raw.", number(row), 100*row/most.of(rawPublish+"/256").median())
	share := most.of(byEvent+"/256").median() / most.of(rawPublish+"/256").median()
	b.want("accept at 256 callers, CloudEvent against raw publish", "50 % or more", fmt.Sprintf("%.0f %%", 100*share), share >= 0.5)
	above := half.of(byEvent+"/1").median() - half.of(rawPublish+"/1").median()
	b.want("accept at one caller, above raw publish", "0.5 ms or less", number(above)+" ms", above <= 0.5)
	for _, c := range []chart{rates, medians} {
		if err := b.draw(c); err != nil {
			return nil, err
		}
		s.plot(c.name, c.title)
	}
	return s, nil
}
