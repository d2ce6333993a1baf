package conformance_test

import (
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func submitRows() []row {
	return []row{
		{name: "new", run: func(t *testing.T, h *house, f door) {
			id := fresh(t)
			receipt := ask(t, f, request(id), ok)
			if receipt.isNew != distinguishesNew(f) {
				t.Errorf("it is answered as new: %v", receipt.isNew)
			}
			same(t, "the receipt", receipt.reply, &pb.ExecuteDeliberationResponse{
				DeliberationId: id, Status: "submitted", Message: receipt.reply.(*pb.ExecuteDeliberationResponse).GetMessage(),
			})
			record, _ := recorded(t, h, id)
			same(t, "the journal's request", record.GetRequest(), request(id))
		}},
		{name: "without an id", run: func(t *testing.T, h *house, f door) {
			first, second := submit(t, f, request("")), submit(t, f, request(""))
			if first == second {
				t.Errorf("two requests are both %s", first)
			}
			recorded(t, h, first)
		}},
		{name: "the same again", run: func(t *testing.T, h *house, f door) {
			id := fresh(t)
			submit(t, f, request(id))
			for range 2 {
				again := ask(t, f, request(id), ok)
				if got := again.reply.(*pb.ExecuteDeliberationResponse).GetDeliberationId(); got != id || again.isNew {
					t.Errorf("it is %v", again)
				}
			}
			recorded(t, h, id)
		}},
		{name: "the same id, another request", run: func(t *testing.T, _ *house, f door) {
			id := fresh(t)
			submit(t, f, request(id))
			other := request(id)
			other.Constraints = &pb.TaskConstraints{TimeoutSeconds: 300} // the default, but not as it was sent
			refusal := ask(t, f, other, conflict)
			if refusal.field != "deliberation_id" || refusal.id != id {
				t.Errorf("refused with %v", refusal)
			}
		}},
		{name: "the same event or Idempotency-Key again", about: hasKeys, run: func(t *testing.T, h *house, f door) {
			c := call{request: request(""), id: fresh(t)}
			first := askAs(t, f, c, ok).reply.(*pb.ExecuteDeliberationResponse).GetDeliberationId()
			second := askAs(t, f, c, ok).reply.(*pb.ExecuteDeliberationResponse).GetDeliberationId()
			if first != second {
				t.Errorf("one event is %s and %s", first, second)
			}
			recorded(t, h, first)
		}},
		{name: "every field, as it was sent", run: func(t *testing.T, h *house, f door) {
			sent := fullRequest(fresh(t))
			submit(t, f, sent)
			record, _ := recorded(t, h, sent.GetDeliberationId())
			same(t, "the journal's request", record.GetRequest(), sent)
		}},
		{name: "any script, and NUL", run: func(t *testing.T, h *house, f door) {
			sent := request(fresh(t))
			sent.TaskDescription = "Ünïcode — 日本語, العربية, 👩🏽‍💻, a\u0301, \u202e, \u0000, \\u0041, \"quoted\", <b>&amp;</b>\r\n\t"
			sent.Role = "архитектор"
			sent.Constraints = &pb.TaskConstraints{Metadata: map[string]string{"ключ": "値", "": "empty key"}}
			submit(t, f, sent)
			record, _ := recorded(t, h, sent.GetDeliberationId())
			same(t, "the journal's request", record.GetRequest(), sent)
			if got := status(t, f, sent.GetDeliberationId()); got.GetTaskId() != sent.GetTaskId() {
				t.Errorf("its status is %v", got)
			}
		}},
		{name: "256 agents", run: func(t *testing.T, _ *house, f door) {
			sent := request(fresh(t))
			sent.Agents = agents(256)
			submit(t, f, sent)
		}},
		{name: "1 MiB to the byte", run: func(t *testing.T, _ *house, f door) {
			sent := sized(fresh(t), 1<<20)
			submit(t, f, sent)
			submit(t, f, sent)
			if got := status(t, f, sent.GetDeliberationId()); got.GetStatus() != "queued" {
				t.Errorf("its status is %v", got)
			}
		}},
		{name: "the caller's traceparent is stored", run: func(t *testing.T, h *house, f door) {
			id := fresh(t)
			askAs(t, f, call{request: request(id), trace: trace}, ok)
			if _, got := recorded(t, h, id); got != trace {
				t.Errorf("the journal has %q", got)
			}
			askAs(t, f, call{request: &pb.CancelDeliberationRequest{DeliberationId: id}, trace: trace}, ok)
			end := journaltest.Messages(t, h.NATSURL(), "DELIBERATIONS", "deliberation.done.cancelled."+id)
			if len(end) != 1 || end[0].Header.Get("ce-traceparent") != trace {
				t.Errorf("the journal's end is %v", end)
			}
		}},
	}
}

// hasKeys is about the doors where something besides the request says which one
// it is.
func hasKeys(f door) bool {
	_, event := f.(*eventDoor)
	return event || distinguishesNew(f)
}

// distinguishesNew selects the doors that answer a repeated submit differently from a new one.
func distinguishesNew(f door) bool {
	_, is := f.(*rest)
	_, behind := f.(*lambdaREST)
	return is || behind
}

// fullRequest has every field.
func fullRequest(id string) *pb.ExecuteDeliberationRequest {
	return &pb.ExecuteDeliberationRequest{
		TaskId: "T", TaskDescription: "D", Role: "R", DeliberationId: id, Pool: otherPool,
		Constraints: &pb.TaskConstraints{
			StoryId: "S", PlanId: "P", TimeoutSeconds: 86400, MaxRetries: proto.Int32(0), Metadata: map[string]string{"key": "value"},
		},
		Agents:  []*pb.Agent{{Id: "A.0_-", Role: "r", Model: "m", PromptTemplate: "{key} {task_description} {role} {agent_id} { a.b } {}"}},
		VllmUrl: "https://" + strings.ToUpper(allowedHost) + ":8443/base/", VllmModel: "M",
	}
}

func agents(n int) []*pb.Agent {
	made := make([]*pb.Agent, n)
	for i := range made {
		made[i] = &pb.Agent{Id: "a" + strings.Repeat("0", i%8) + string(rune('a'+i%26)) + strings.Repeat("x", i/26)}
	}
	return made
}

// sized is a request of so many bytes, in protobuf.
func sized(id string, bytes int) *pb.ExecuteDeliberationRequest {
	made := request(id)
	made.TaskDescription = strings.Repeat("ö\n", (bytes-1000)/3)
	made.TaskDescription += strings.Repeat("x", bytes-proto.Size(made))
	return made
}

// A joint is a case that all doors have to pass at the same time.
type joint struct {
	name string
	run  func(t *testing.T, h *house)
}

func together() []joint {
	return []joint{
		{"one request, submitted through every door at once", func(t *testing.T, h *house) {
			const each = 4
			id := fresh(t)
			atOnce(h, each, func(f door, _ int) { submit(t, f, request(id)) })
			recorded(t, h, id)
		}},
		{"one id for a request of each door's own, at once", func(t *testing.T, h *house) {
			id := fresh(t)
			var mu sync.Mutex
			tally := make(map[string]int)
			atOnce(h, 1, func(f door, place int) {
				own := request(id)
				own.TaskDescription = f.name()
				o, err := f.call(t.Context(), call{request: own})
				if err != nil {
					t.Errorf("%d: %s: %v", place, f.name(), err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				tally[o.code]++
			})
			if tally[ok] != 1 || tally[conflict] != len(h.doors)-1 {
				t.Errorf("it comes to %v", tally)
			}
			recorded(t, h, id)
		}},
		{"one deliberation, cancelled through every door at once", func(t *testing.T, h *house) {
			id := fresh(t)
			submit(t, h.doors[0], request(id))
			atOnce(h, 2, func(f door, _ int) {
				if got := cancel(t, f, id); got.GetStatus() != "cancelled" {
					t.Errorf("%s answers %v", f.name(), got)
				}
			})
			if ends := journaltest.Messages(t, h.NATSURL(), "DELIBERATIONS", "deliberation.done.*."+id); len(ends) != 1 {
				t.Errorf("it has %d ends", len(ends))
			}
		}},
		{"every door answers the same about a deliberation", func(t *testing.T, h *house) {
			sent := fullRequest(fresh(t))
			submit(t, h.doors[0], sent)
			cancel(t, h.doors[0], sent.GetDeliberationId())
			want := status(t, h.doors[0], sent.GetDeliberationId())
			for _, f := range h.doors[1:] {
				same(t, f.name()+": status", status(t, f, sent.GetDeliberationId()), want)
				same(t, f.name()+": statistics", statistics(t, f), statistics(t, h.doors[0]))
			}
		}},
	}
}

// atOnce calls every door several times, all at the same time.
func atOnce(h *house, each int, do func(f door, place int)) {
	var group sync.WaitGroup
	start := make(chan struct{})
	for _, f := range h.doors {
		for place := range each {
			group.Go(func() {
				<-start
				do(f, place)
			})
		}
	}
	close(start)
	group.Wait()
}
