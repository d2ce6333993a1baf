package journaltest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// Worker writes to the journal what a Ray worker writes, by the same
// compare-and-set.
type Worker struct {
	js jetstream.JetStream
	// Cluster is the cluster that its starts name.
	Cluster string
}

// NewWorker connects a worker to a server until the test ends.
func NewWorker(tb testing.TB, url string) *Worker {
	tb.Helper()
	_, js := Dial(tb, url)
	return &Worker{js: js, Cluster: "here"}
}

// Wake waits until the server answers the worker again, which may not have noticed
// yet that it was restarted: what it publishes until then gets no answer.
func (w *Worker) Wake(ctx context.Context) error {
	return await.Until(ctx, "the worker's connection", func() error { return w.js.Conn().FlushTimeout(time.Second) })
}

// Started writes the start of an attempt, 1 for the first. first is the
// journal's time of the first one, zero on the first. The sequence that the
// attempt before has is expected; stored is false if another worker was
// faster.
func (w *Worker) Started(ctx context.Context, id string, attempt int32, first time.Time, before uint64) (sequence uint64, stored bool, err error) {
	event := &pb.DeliberationStarted{DeliberationId: id, TaskId: "task-" + id, Attempt: attempt, Cluster: w.Cluster}
	if !first.IsZero() {
		event.FirstStartedAt = timestamppb.New(first)
	}
	data, err := proto.Marshal(event)
	if err != nil {
		return 0, false, err
	}
	message := &nats.Msg{
		Subject: events.Subject(deliberation.KindStarted, deliberation.DefaultPool, id), Data: data,
		Header: nats.Header{
			"ce-specversion": {"1.0"}, "ce-id": {fmt.Sprintf("%s.started.%d", id, attempt)},
			"ce-type": {events.Type(event)}, "ce-source": {events.Source}, "ce-subject": {id},
			"ce-time": {time.Now().UTC().Format(time.RFC3339Nano)}, "content-type": {events.Protobuf},
		},
	}
	return w.publish(ctx, message, message.Subject, before)
}

// Agent writes the result of the agent at a place in the request: a proposal,
// or a failure where proposal is empty.
func (w *Worker) Agent(ctx context.Context, id string, index int, proposal string) (stored bool, err error) {
	event := &pb.AgentCompleted{
		DeliberationId: id, TaskId: "task-" + id, AgentIndex: int32(index), Result: Result(index, proposal),
	}
	return w.Write(ctx, event, events.AgentSubject(index, id))
}

// Completed writes the end with results.
func (w *Worker) Completed(ctx context.Context, id string, results ...*pb.DeliberationResult) (won bool, err error) {
	return w.Write(ctx, &pb.DeliberationCompleted{
		DeliberationId: id, TaskId: "task-" + id, Results: results,
	}, events.EndSubject(id))
}

// Write appends an event if no message exists on the subjects that free covers.
func (w *Worker) Write(ctx context.Context, event proto.Message, free string) (stored bool, err error) {
	encoded, err := events.Encode(event, events.Source, "")
	if err != nil {
		return false, err
	}
	message := &nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data}
	_, stored, err = w.publish(ctx, message, free, 0)
	return stored, err
}

func (w *Worker) publish(ctx context.Context, message *nats.Msg, subject string, expected uint64) (uint64, bool, error) {
	ack, err := w.js.PublishMsg(ctx, message, jetstream.WithExpectLastSequenceForSubject(expected, subject))
	if err == nil {
		return ack.Sequence, true, nil
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return 0, false, nil
	}
	return 0, false, err
}

// Result is an agent's proposal, or its failure where proposal is empty.
func Result(index int, proposal string) *pb.DeliberationResult {
	result := &pb.DeliberationResult{
		AgentId: "a" + strconv.Itoa(index), Proposal: proposal, Metadata: map[string]string{"status": "completed"},
	}
	if proposal == "" {
		result.Metadata = map[string]string{"status": "failed", "error": "no answer"}
	}
	return result
}

func join(urls []string) string { return strings.Join(urls, ",") }

func portOf(tb testing.TB, raw string) int {
	tb.Helper()
	parsed, err := url.Parse(raw)
	if err != nil {
		tb.Fatal(err)
	}
	port, err := strconv.Atoi(parsed.Port())
	if err != nil {
		tb.Fatal(err)
	}
	return port
}
