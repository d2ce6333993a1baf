package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// Refusal is an answer other than 200.
type Refusal struct {
	Status         int
	RetryAfter     string
	Code           string `json:"code"`
	Detail         string `json:"detail"`
	Field          string `json:"field"`
	DeliberationID string `json:"deliberation_id"`
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("%d: %s", r.Status, r.Detail) }

// Call sends a request to the function server; see Send.
func (s *System) Call(ctx context.Context, id string, request, reply proto.Message) error {
	return Send(ctx, s.http, s.URL(), id, request, reply)
}

// Send sends a request as a binary CloudEvent with JSON data, and reads the
// reply. An answer other than 200 is a *Refusal.
func Send(ctx context.Context, client *http.Client, url, id string, request, reply proto.Message) error {
	response, err := event(ctx, client, url+"/", id, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		refusal := &Refusal{Status: response.StatusCode, RetryAfter: response.Header.Get("Retry-After")}
		_ = json.Unmarshal(body, refusal) // what is no JSON leaves it empty
		return refusal
	}
	if want := string(reply.ProtoReflect().Descriptor().FullName()); response.Header.Get("Ce-Type") != want {
		return fmt.Errorf("the reply is a %q, not a %s", response.Header.Get("Ce-Type"), want)
	}
	return protojson.Unmarshal(body, reply)
}

// Post is Send for a broker, which takes an event and answers nothing.
func Post(ctx context.Context, client *http.Client, url, id string, request proto.Message) error {
	response, err := event(ctx, client, url, id, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		return &Refusal{Status: response.StatusCode}
	}
	return nil
}

// event posts an event that is written by hand, so that nothing of ours is on
// the caller's side.
func event(ctx context.Context, client *http.Client, url, id string, request proto.Message) (*http.Response, error) {
	data, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	httpRequest, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	httpRequest.Header.Set("Content-Type", "application/json")
	httpRequest.Header.Set("Ce-Specversion", "1.0")
	httpRequest.Header.Set("Ce-Id", id)
	httpRequest.Header.Set("Ce-Source", "/tests")
	httpRequest.Header.Set("Ce-Type", string(request.ProtoReflect().Descriptor().FullName()))
	return client.Do(httpRequest)
}

// ask is Call for tests that are not about 503: it asks again for as long, as
// callers are told to.
func (s *System) ask(tb testing.TB, id string, request, reply proto.Message) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), await.Limit)
	defer cancel()
	err := await.Until(ctx, "an answer to "+id, func() error {
		err := s.Call(ctx, id, request, reply)
		if refusal, ok := errors.AsType[*Refusal](err); err == nil || ok && refusal.Status == http.StatusServiceUnavailable {
			return err
		}
		tb.Fatalf("%s: %v", id, err)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// TrySubmit submits and returns the deliberation's id.
func (s *System) TrySubmit(ctx context.Context, request *pb.ExecuteDeliberationRequest) (string, error) {
	var receipt pb.ExecuteDeliberationResponse
	if err := s.Call(ctx, "submit-"+request.GetTaskId(), request, &receipt); err != nil {
		return "", err
	}
	s.Note(receipt.GetDeliberationId())
	return receipt.GetDeliberationId(), nil
}

// Note remembers what was accepted, by whatever door.
func (s *System) Note(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted[id] = true
}

// Submit submits and returns the deliberation's id.
func (s *System) Submit(tb testing.TB, request *pb.ExecuteDeliberationRequest) string {
	tb.Helper()
	var receipt pb.ExecuteDeliberationResponse
	s.ask(tb, "submit-"+request.GetTaskId(), request, &receipt)
	s.Note(receipt.GetDeliberationId())
	return receipt.GetDeliberationId()
}

// Accepted lists the deliberations that were ever accepted.
func (s *System) Accepted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range s.accepted {
		ids = append(ids, id)
	}
	return ids
}

// Status returns the status of a deliberation.
func (s *System) Status(tb testing.TB, id string) *pb.GetDeliberationStatusResponse {
	tb.Helper()
	status := &pb.GetDeliberationStatusResponse{}
	s.ask(tb, "status-"+id, &pb.GetDeliberationStatusRequest{DeliberationId: id}, status)
	return status
}

// patience is how long Await waits. What a killed worker had is redelivered
// after the ack wait of 15 s, and Serve needs time to replace the replica.
const patience = 4 * time.Minute

// Await waits until a deliberation's status is as wanted.
func (s *System) Await(tb testing.TB, id string, wanted func(*pb.GetDeliberationStatusResponse) bool) *pb.GetDeliberationStatusResponse {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	var status *pb.GetDeliberationStatusResponse
	err := await.Until(ctx, "deliberation "+id, func() error {
		if status = s.Status(tb, id); !wanted(status) {
			return fmt.Errorf("it is %v", status)
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return status
}

// AwaitEnd waits until a deliberation has ended.
func (s *System) AwaitEnd(tb testing.TB, id string) *pb.GetDeliberationStatusResponse {
	tb.Helper()
	return s.Await(tb, id, func(status *pb.GetDeliberationStatusResponse) bool { return status.GetEndedAt() != nil })
}

// Cancel cancels a deliberation and returns the recorded status.
func (s *System) Cancel(tb testing.TB, id, reason string) string {
	tb.Helper()
	var cancelled pb.CancelDeliberationResponse
	s.ask(tb, "cancel-"+id, &pb.CancelDeliberationRequest{DeliberationId: id, Reason: reason}, &cancelled)
	return cancelled.GetStatus()
}

// Health asks for health, statistics and clusters.
func (s *System) Health(tb testing.TB) *pb.GetStatusResponse {
	tb.Helper()
	health := &pb.GetStatusResponse{}
	s.ask(tb, "health", &pb.GetStatusRequest{}, health)
	return health
}
