package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
	"rayexecutor/tests/freeport"
)

// lateness is how long after the submissions the model server starts: 5 s, or what
// LATE says.
func lateness(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("LATE")
	if text == "" {
		return 5 * time.Second
	}
	late, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return late
}

// aModelServerThatStartsLate submits to a server that has not started. All of it
// completes without a retry, and deliberations of the same pool with another server
// complete before. The pool has one slot a replica.
func aModelServerThatStartsLate(t *testing.T) {
	address := freeport.Address(t)
	begun := time.Now()
	var waiting []string
	for i := range 10 {
		submitted := request(fmt.Sprintf("late-%d", i), agents(3)...)
		submitted.VllmUrl, submitted.Pool = "http://"+address, "pair"
		submitted.Constraints = &pb.TaskConstraints{MaxRetries: new(int32(1)), TimeoutSeconds: 300}
		waiting = append(waiting, sys.Submit(t, submitted))
	}
	reason := "waiting for model server " + address + ": connection refused"
	for _, id := range waiting {
		sys.Await(t, id, func(status *pb.GetDeliberationStatusResponse) bool { return status.GetReason() == reason })
	}
	other := request("not-late", agents(2)...)
	other.Pool = "pair"
	expectState(t, sys.AwaitEnd(t, sys.Submit(t, other)), deliberation.Completed)

	time.Sleep(time.Until(begun.Add(lateness(t))))
	late := startLate(t, address)
	for _, id := range waiting {
		status := sys.AwaitEnd(t, id)
		expectState(t, status, deliberation.Completed)
		if status.GetReason() != "" {
			t.Errorf("%s has ended, and its reason is %q", id, status.GetReason())
		}
		for _, result := range status.GetResults() {
			if result.GetProposal() == "" || result.GetMetadata()["attempts"] != "1" {
				t.Errorf("%s of %s: %v", result.GetAgentId(), id, result)
			}
		}
	}
	t.Logf("the server started after %s, and all had ended after %s", lateness(t), time.Since(begun).Round(time.Second))
	if asked := len(late.Requests()); asked != 30 {
		t.Errorf("the server was asked %d times, not once by each of 30 agents", asked)
	}
}

// startLate starts a model server at an address, until the test ends.
func startLate(t *testing.T, address string) *standin.Server {
	t.Helper()
	server, err := standin.New(standin.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() { cancel(); <-ended })
	return server
}

// unavailableIsWaitedFor has 503 from a proxy and from a server's own admission.
func unavailableIsWaitedFor(t *testing.T) {
	submitted := request("unavailable", agents(2)...)
	submitted.Constraints = &pb.TaskConstraints{MaxRetries: new(int32(1))}
	submitted.Agents[0].Model = behave(t, "proxy-503", standin.Behaviour{
		Status: http.StatusServiceUnavailable, Body: "no healthy upstream", FailFirst: 3,
	})
	submitted.Agents[1].Model = behave(t, "full-503", standin.Behaviour{
		Status: http.StatusServiceUnavailable, FailFirst: 3,
		Body: `{"error": {"message": "The server is overloaded", "type": "Service Unavailable", "code": 503}}`,
	})
	status := sys.AwaitEnd(t, sys.Submit(t, submitted))
	expectState(t, status, deliberation.Completed)
	for _, result := range status.GetResults() {
		if metadata := result.GetMetadata(); metadata["status"] != "completed" || metadata["attempts"] != "1" || result.GetUsage().GetRequests() != 4 {
			t.Errorf("%s: %v", result.GetAgentId(), result)
		}
	}
}
