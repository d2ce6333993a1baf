package journaltest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

// Layout is what Connect deploys.
func Layout() journal.Layout {
	return journal.Layout{
		Pools:    []journal.Pool{{Name: deliberation.DefaultPool, InFlight: 1000}},
		Replicas: 1, MaxAge: 7 * 24 * time.Hour, MaxBytes: -1,
	}
}

// Connect returns a journal on a server, and deploys Layout after change has altered
// it.
func Connect(tb testing.TB, url string, change ...func(*journal.Layout)) *journal.Journal {
	tb.Helper()
	j := Undeployed(tb, journal.Settings{URL: url})
	layout := Layout()
	for _, alter := range change {
		alter(&layout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	waitFor(tb, "the journal to be deployed", func() bool {
		if err := j.Deploy(ctx, layout); err != nil {
			tb.Logf("deploy: %v", err)
			return false
		}
		return true
	})
	return j
}

// Undeployed returns a journal without a deployment, which is closed when the test
// ends. Absent settings have defaults.
func Undeployed(tb testing.TB, settings journal.Settings) *journal.Journal {
	tb.Helper()
	if settings.Log == nil {
		settings.Log = slog.New(slog.DiscardHandler)
	}
	if settings.Name == "" {
		settings.Name = tb.Name()
	}
	j, err := journal.Connect(settings)
	if err != nil {
		tb.Fatalf("connect: %v", err)
	}
	tb.Cleanup(j.Close)
	return j
}

// Record is an accepted request with defaults filled in, and with a number of agents
// named a0, a1 and so on.
func Record(id string, agents int, timeoutSeconds int32) *pb.DeliberationRequested {
	request := &pb.ExecuteDeliberationRequest{
		TaskId: "task-" + id, TaskDescription: "Decide.", Role: "architect", DeliberationId: id,
	}
	for i := range agents {
		request.Agents = append(request.Agents, &pb.Agent{Id: fmt.Sprintf("a%d", i), Model: "m"})
	}
	return &pb.DeliberationRequested{
		DeliberationId: id, TaskId: request.GetTaskId(), Request: request, Pool: deliberation.DefaultPool,
		TimeoutSeconds: timeoutSeconds, MaxRetries: deliberation.DefaultMaxRetries, VllmUrl: "http://model",
	}
}
