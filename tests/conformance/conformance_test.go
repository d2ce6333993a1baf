// Package conformance runs the same cases through every door: the five ways of
// CloudEvents, gRPC, gRPC-Web, Connect, REST, AWS Lambda, and the Python client. Of these only the
// last is code of ours: what the others send is written by hand. The run writes the table
// in docs/conformance.md (`-update`), and fails when it is stale.
package conformance_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

// A house is a system with its doors. No worker runs agents in it: what a Ray
// worker would write, worker writes.
type house struct {
	*system.System

	doors  []door
	worker *journaltest.Worker
	// lambdaTime is how long an invocation of the Lambda doors may last.
	lambdaTime *atomic.Int64
}

const (
	allowedHost = "models.test"
	otherPool   = "other"
)

func setup(t *testing.T, settings ...string) *house {
	t.Helper()
	sys := system.Served(t, system.Options{
		ModelURL: "http://" + allowedHost,
		Settings: append([]string{"POOLS=default," + otherPool, "KEEPER=false"}, settings...),
	})
	h := &house{System: sys, worker: journaltest.NewWorker(t, sys.NATSURL()), lambdaTime: new(atomic.Int64)}
	h.lambdaTime.Store(int64(invocationTime))
	h.doors = slices.Concat(facesOf(sys.URL()), pythonDoors(t, sys.URL()), lambdaDoors(t, sys, h.lambdaTime))
	return h
}

// facesOf are the ways into a server.
func facesOf(url string) []door {
	return append(eventDoors(url), &grpc{url: url}, &grpc{url: url, web: true}, &connect{url}, &rest{url})
}

// A row is a case that every door has to pass, or those that it is about.
type row struct {
	name string
	// about says which doors the case is about; nil: all.
	about func(door) bool
	run   func(t *testing.T, h *house, f door)
}

func TestConformance(t *testing.T) {
	h := setup(t)
	page := newPage(h.doors)
	for _, section := range sections() {
		page.section(section.name)
		t.Run(section.name, func(t *testing.T) {
			h := h
			if section.house != nil {
				h = section.house(t)
			}
			for _, row := range section.rows {
				page.row(row.name)
				t.Run(row.name, func(t *testing.T) { runRow(t, h, row, page) })
			}
		})
	}
	page.section("All doors at once")
	for _, row := range together() {
		page.row(row.name)
		passed := t.Run(row.name, func(t *testing.T) { row.run(t, h) })
		for _, f := range h.doors {
			page.mark(row.name, f, passed)
		}
	}
	if !t.Failed() {
		page.compare(t)
	}
}

func runRow(t *testing.T, h *house, row row, page *page) {
	for _, f := range h.doors {
		if row.about == nil || row.about(f) {
			page.mark(row.name, f, t.Run(f.name(), func(t *testing.T) { row.run(t, h, f) }))
		}
	}
}

// A section has a house of its own, or that of all the others.
type section struct {
	name  string
	rows  []row
	house func(*testing.T) *house
}

func sections() []section {
	return []section{
		{"On a fresh journal", freshRows(), nil},
		{"Submit", submitRows(), nil},
		{"Status, cancel, jobs, statistics", lifeRows(), nil},
		{"List", listRows(), nil},
		{"Watch", watchRows(), nil},
		{"Refused at the door", invalidRows(), nil},
		{"The API of newer fleets, fleet.ray_executor.v1", fleetRows(), nil},
		{"While NATS is away", awayRows(), withoutNATS},
		{"While the journal is full", fullRows(), filled},
	}
}

var (
	counts   = make(map[string]int)
	countsMu sync.Mutex
)

// fresh returns a deliberation id that nobody has had.
func fresh(t *testing.T) string {
	t.Helper()
	countsMu.Lock()
	defer countsMu.Unlock()
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, t.Name()[strings.LastIndexByte(t.Name(), '/')+1:])
	counts[name]++
	return fmt.Sprintf("%s-%d", name, counts[name])
}

// request is one that is in order.
func request(id string) *pb.ExecuteDeliberationRequest {
	return &pb.ExecuteDeliberationRequest{
		TaskId: "task-" + id, TaskDescription: "Decide.", Role: "DEV", DeliberationId: id,
		Agents: []*pb.Agent{{Id: "a0"}, {Id: "a1"}},
	}
}

// ask calls a door, and holds its answer against the contract's table.
func ask(t *testing.T, f door, request proto.Message, want string) *outcome {
	t.Helper()
	return askAs(t, f, call{request: request}, want)
}

func askAs(t *testing.T, f door, c call, want string) *outcome {
	t.Helper()
	o, err := f.call(context.WithoutCancel(t.Context()), c)
	if err != nil {
		t.Fatalf("%s: %s: %v", f.name(), method(c.request), err)
	}
	if o.code != want {
		t.Fatalf("%s: %s comes to %v, not to %s", f.name(), method(c.request), o, want)
	}
	if wire := f.wire(c.request, want, o.isNew); o.wire != wire {
		t.Errorf("%s: %s is answered with %s, not with %s", f.name(), method(c.request), o.wire, wire)
	}
	repeatable := want == limitReached || want == unavailable
	if repeatable != (o.retryAfter != "") {
		t.Errorf("%s: %s: Retry-After is %q", f.name(), want, o.retryAfter)
	}
	return o
}

// submit submits through a door and returns the id that it was given.
func submit(t *testing.T, f door, request *pb.ExecuteDeliberationRequest) string {
	t.Helper()
	receipt := ask(t, f, request, ok).reply.(*pb.ExecuteDeliberationResponse)
	if receipt.GetStatus() != "submitted" || receipt.GetDeliberationId() == "" {
		t.Fatalf("the receipt is %v", receipt)
	}
	return receipt.GetDeliberationId()
}

func status(t *testing.T, f door, id string) *pb.GetDeliberationStatusResponse {
	t.Helper()
	return ask(t, f, &pb.GetDeliberationStatusRequest{DeliberationId: id}, ok).reply.(*pb.GetDeliberationStatusResponse)
}

func cancel(t *testing.T, f door, id string) *pb.CancelDeliberationResponse {
	t.Helper()
	request := &pb.CancelDeliberationRequest{DeliberationId: id, Reason: "not needed"}
	return ask(t, f, request, ok).reply.(*pb.CancelDeliberationResponse)
}

func statistics(t *testing.T, f door) *pb.RayExecutorStats {
	t.Helper()
	return ask(t, f, &pb.GetStatusRequest{}, ok).reply.(*pb.GetStatusResponse).GetStats()
}

// recorded reads what the journal keeps of a deliberation's acceptance.
func recorded(t *testing.T, h *house, id string) (record *pb.DeliberationRequested, trace string) {
	t.Helper()
	stored := journaltest.Messages(t, h.NATSURL(), "DELIBERATIONS", "deliberation.requested.*."+id)
	if len(stored) != 1 {
		t.Fatalf("the journal has %d requests for %s", len(stored), id)
	}
	record = new(pb.DeliberationRequested)
	if err := proto.Unmarshal(stored[0].Data, record); err != nil {
		t.Fatal(err)
	}
	return record, stored[0].Header.Get("ce-traceparent")
}

func same(t *testing.T, what string, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("%s is %v, not %v", what, got, want)
	}
}
