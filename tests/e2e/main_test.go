// Package e2e drives the whole system as callers do: events in, agents on a
// real Ray, ends heard on a real NATS. The model is a stand-in, so that faults
// can be had; tests/vllm has the core of it on a real one.
package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
	"rayexecutor/tests/system"
)

// The suite shares one system: a Ray takes its time to start.
var (
	sys   *system.System
	model *standin.Server
	sink  *ends
	// early was submitted before there was any Ray.
	early       string
	earlyStatus *pb.GetDeliberationStatusResponse
)

func TestMain(m *testing.M) {
	if os.Getenv(stranger) != "" {
		callAsStranger(os.Args[1:])
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	stop, url, err := startModel(ctx)
	if err != nil {
		return 1, err
	}
	defer stop()
	sink = newSink()
	defer sink.Close()
	sys, err = system.New(system.Options{
		Dir: dir, ModelURL: url, Model: "echo",
		Settings: []string{"POOLS=default,narrow:1,pair:2", "WORKER_REPLICAS=2", "MODEL_HOSTS=127.0.0.1", "AGENT_RESPONSES=true", "K_SINK=" + sink.URL},
	})
	if err != nil {
		return 1, err
	}
	defer func() {
		if code != 0 || err != nil {
			fmt.Fprintln(os.Stderr, sys.Logs())
		}
		if closing := sys.Close(); closing != nil && err == nil {
			code, err = 1, closing
		}
	}()
	if err := startAll(ctx); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// startAll starts the system, and submits one deliberation before there is a
// Ray.
func startAll(ctx context.Context) error {
	if err := sys.StartJournal(ctx); err != nil {
		return err
	}
	if err := sys.StartServer(ctx); err != nil {
		return err
	}
	var err error
	early, err = sys.TrySubmit(ctx, request("early", agents(1)...))
	if err != nil {
		return fmt.Errorf("submit without Ray: %w", err)
	}
	earlyStatus = &pb.GetDeliberationStatusResponse{}
	if err := sys.Call(ctx, "early", &pb.GetDeliberationStatusRequest{DeliberationId: early}, earlyStatus); err != nil {
		return err
	}
	if err := sys.StartRay(ctx); err != nil {
		return err
	}
	// The server learns where Ray is.
	if err := sys.StopServer(); err != nil {
		return err
	}
	return sys.StartServer(ctx)
}

func startModel(ctx context.Context) (stop func(), url string, err error) {
	model, err = standin.New(standin.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, "", err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- model.Serve(ctx, listener) }()
	return func() { cancel(); <-ended }, "http://" + listener.Addr().String(), nil
}

// request is a deliberation on a task of its own.
func request(task string, agents ...*pb.Agent) *pb.ExecuteDeliberationRequest {
	return &pb.ExecuteDeliberationRequest{
		TaskId: task, TaskDescription: "Describe " + task, Role: "DEV", Agents: agents,
	}
}

// agents are n agents without wishes.
func agents(n int) []*pb.Agent {
	var list []*pb.Agent
	for i := range n {
		list = append(list, &pb.Agent{Id: fmt.Sprintf("agent-%d", i)})
	}
	return list
}

// behave sets what a model of a test's own does.
func behave(t *testing.T, name string, behaviour standin.Behaviour) string {
	t.Helper()
	if err := model.SetBehaviour(name, behaviour); err != nil {
		t.Fatal(err)
	}
	return name
}
