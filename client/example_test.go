package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	function "rayexecutor"
	"rayexecutor/client"
	"rayexecutor/config"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Example submits a deliberation, waits for its end and prints the proposals.
func Example() {
	server, stop := serve()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.New(server, client.Options{})
	if err != nil {
		panic(err)
	}
	one, err := c.Submit(ctx, &pb.ExecuteDeliberationRequest{
		TaskId: "t-1", TaskDescription: "Name a risk of caching", Role: "DEV",
		Agents:         []*pb.Agent{{Id: "a0"}, {Id: "a1"}},
		DeliberationId: "d-1", // without it, the client chooses one
	})
	if err != nil {
		panic(err)
	}
	ended, err := c.Wait(ctx, one.GetDeliberationId())
	if err != nil {
		panic(err)
	}
	fmt.Println(ended.GetDeliberationId(), ended.GetStatus())
	for _, result := range ended.GetResults() {
		fmt.Println(result.GetAgentId(), result.GetProposal())
	}

	_, err = c.Status(ctx, "d-2")
	fmt.Println(client.CodeOf(err))
	// Output:
	// d-1 completed
	// a0 stale entries
	// a1 a stampede
	// not_found
}

// ExampleClient_Watch prints the events of a deliberation.
func ExampleClient_Watch() {
	server, stop := serve()
	defer stop()

	c, err := client.New(server, client.Options{})
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if _, err := c.Submit(ctx, &pb.ExecuteDeliberationRequest{
		TaskId: "t-1", TaskDescription: "Name a risk of caching", Role: "DEV", Agents: []*pb.Agent{{Id: "a0"}, {Id: "a1"}}, DeliberationId: "d-1",
	}); err != nil {
		panic(err)
	}
	for event, err := range c.Watch(ctx, "d-1", 0) {
		if err != nil {
			panic(err)
		}
		switch {
		case event.GetAgent() != nil:
			fmt.Println(event.GetSequence(), "agent", event.GetAgent().GetResult().GetAgentId())
		default:
			fmt.Println(event.GetSequence(), event.GetStatus())
		}
	}
	// Output:
	// 1 queued
	// 2 running
	// 3 agent a0
	// 4 agent a1
	// 5 completed
}

// serve runs a function server, and a worker that answers each request at once.
func serve() (url string, stop func()) {
	tb := &exampleTB{}
	nats := journaltest.Start(tb)
	journaltest.Connect(tb, nats.URL)
	settings, err := config.Load([]string{"NATS_URL=" + nats.URL, "RAY_ADDRESS=http://127.0.0.1:9", "VLLM_URL=http://127.0.0.1:9", "VLLM_MODEL=none"})
	if err != nil {
		panic(err)
	}
	served := function.New()
	if err := served.StartWith(settings, slog.New(slog.DiscardHandler)); err != nil {
		panic(err)
	}
	worker := journaltest.NewWorker(tb, nats.URL)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Handle(w, r)
		if strings.HasSuffix(r.URL.Path, "/ExecuteDeliberation") {
			work(worker, "d-1")
		}
	}))
	return server.URL, func() {
		server.Close()
		_ = served.Stop(context.Background())
		tb.end()
	}
}

// work writes what a Ray worker writes.
func work(worker *journaltest.Worker, id string) {
	ctx := context.Background()
	if _, _, err := worker.Started(ctx, id, 1, time.Time{}, 0); err != nil {
		panic(err)
	}
	var results []*pb.DeliberationResult
	for i, proposal := range []string{"stale entries", "a stampede"} {
		results = append(results, journaltest.Result(i, proposal))
		if _, err := worker.Agent(ctx, id, i, proposal); err != nil {
			panic(err)
		}
	}
	if _, err := worker.Completed(ctx, id, results...); err != nil {
		panic(err)
	}
}

// exampleTB is what journaltest needs of a test, for an example, which has none.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (*exampleTB) Helper()                   {}
func (*exampleTB) Name() string              { return "example" }
func (*exampleTB) Context() context.Context  { return context.Background() }
func (*exampleTB) Logf(string, ...any)       {}
func (*exampleTB) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (*exampleTB) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }
func (t *exampleTB) Cleanup(f func())        { t.cleanups = append(t.cleanups, f) }

func (t *exampleTB) TempDir() string {
	dir, err := os.MkdirTemp("", "client")
	if err != nil {
		panic(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (t *exampleTB) end() {
	for _, cleanup := range slices.Backward(t.cleanups) {
		cleanup()
	}
}
