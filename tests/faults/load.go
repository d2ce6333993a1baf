package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

// Outcome is what a caller was told.
type Outcome struct {
	Ask Ask
	// Accepted: it was answered 200. Unknown: some answer left it open, or none
	// came. Refused is the status of a refusal.
	Accepted, Unknown bool
	Refused           int
	// Twin is how the same id was answered for another request.
	Twin int
	// Cancelled is the status that a cancel was answered with.
	Cancelled string
	// Told is what a status said, asked at ToldAt.
	Told   string
	ToldAt time.Time
}

// patience is how long a caller repeats what was not answered.
const patience = time.Minute

// call asks one function server after the other until one answers with
// something that lasts. unknown tells that some try was left open.
func (r *run) call(ctx context.Context, ask Ask, name string, request, reply proto.Message) (unknown bool, err error) {
	deadline := time.Now().Add(patience)
	for try := 0; ; try++ {
		err = r.callOnce(ctx, r.rig.urls[(ask.Server+try)%2], name+ask.ID, request, reply)
		refusal, refused := errors.AsType[*system.Refusal](err)
		if err == nil || refused && refusal.Status != http.StatusServiceUnavailable && refusal.Status != http.StatusTooManyRequests {
			return unknown, err
		}
		unknown = true
		if ask.Impatient || time.Now().After(deadline) || !sleep(ctx, 300*time.Millisecond) {
			return unknown, err
		}
	}
}

func (r *run) callOnce(ctx context.Context, url, name string, request, reply proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	return system.Send(ctx, r.client, url, name, request, reply)
}

// request is what a caller sends.
func (ask Ask) request() *pb.ExecuteDeliberationRequest {
	request := &pb.ExecuteDeliberationRequest{
		DeliberationId: ask.ID, TaskId: "task-" + ask.ID, TaskDescription: ask.ID, Role: "DEV",
		Constraints: &pb.TaskConstraints{TimeoutSeconds: int32(ask.Timeout.Seconds()), MaxRetries: new(ask.Retries)},
	}
	for i, model := range ask.Models {
		request.Agents = append(request.Agents, &pb.Agent{Id: fmt.Sprintf("a%d", i), Model: model, PromptTemplate: prompt})
	}
	if ask.Bad {
		request.Agents[0].Id = "not an id"
	}
	return request
}

// submit submits, and notes how it went; true where it was accepted.
func (r *run) submit(ctx context.Context, ask Ask) bool {
	outcome := &Outcome{Ask: ask}
	var err error
	outcome.Unknown, err = r.call(ctx, ask, "submit-", ask.request(), &pb.ExecuteDeliberationResponse{})
	outcome.Accepted = err == nil
	if refusal, ok := errors.AsType[*system.Refusal](err); ok && refusal.Status < http.StatusInternalServerError &&
		refusal.Status != http.StatusTooManyRequests {
		outcome.Refused = refusal.Status
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[ask.ID] = outcome
	return outcome.Accepted
}

// carryOutAsk does all that one caller does.
func (r *run) carryOutAsk(ctx context.Context, ask Ask) {
	if !r.submit(ctx, ask) {
		return
	}
	r.mu.Lock()
	outcome := r.outcomes[ask.ID]
	r.mu.Unlock()
	if ask.Twin {
		other := ask.request()
		other.TaskDescription = "something else"
		_, err := r.call(ctx, ask, "twin-", other, &pb.ExecuteDeliberationResponse{})
		if refusal, ok := errors.AsType[*system.Refusal](err); ok {
			outcome.Twin = refusal.Status
		} else if err == nil {
			outcome.Twin = http.StatusOK
		}
	}
	if ask.Cancel > 0 {
		if !sleep(ctx, ask.Cancel) {
			return
		}
		cancelled := &pb.CancelDeliberationResponse{}
		if _, err := r.call(ctx, ask, "cancel-", &pb.CancelDeliberationRequest{DeliberationId: ask.ID}, cancelled); err == nil {
			outcome.Cancelled = cancelled.GetStatus()
		}
	}
	if !sleep(ctx, 2*time.Second) {
		return
	}
	at, status := time.Now(), &pb.GetDeliberationStatusResponse{}
	if r.callOnce(ctx, r.rig.urls[ask.Server], "status-"+ask.ID, &pb.GetDeliberationStatusRequest{DeliberationId: ask.ID}, status) == nil {
		outcome.Told, outcome.ToldAt = status.GetStatus(), at
	}
}
