package lambda

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-lambda-go/events"

	"rayexecutor/auth"
)

// cloudEvents is the media type of a CloudEvent in structured JSON.
const cloudEvents = "application/cloudevents+json"

// refused is an event that was not taken.
type refused struct {
	status int
	detail string
}

func (r *refused) Error() string {
	return fmt.Sprintf("%d %s: %s", r.status, http.StatusText(r.status), r.detail)
}

// retryable reports whether the same event may be taken later, by the same
// rule as Knative's.
func (r *refused) retryable() bool {
	return r.status == http.StatusTooManyRequests || r.status >= http.StatusInternalServerError
}

// takeEvent takes one event and returns the event that answers it, which
// Lambda hands to the destination on success. An error goes by Lambda's own
// retries, then to the destination on failure.
func (h *Host) takeEvent(ctx context.Context, payload []byte) (json.RawMessage, error) {
	h.wake(ctx)
	reply, err := h.take(ctx, payload)
	if err != nil {
		h.logRefusal(ctx, err)
		return nil, err
	}
	return reply, nil
}

// takeBatch takes a batch of SQS and returns which messages to deliver again:
// those that were refused for good too, so that the queue's redrive policy
// puts them where they are found, in its dead-letter queue.
func (h *Host) takeBatch(ctx context.Context, messages []events.SQSMessage) events.SQSEventResponse {
	h.wake(ctx)
	failures := []events.SQSBatchItemFailure{}
	held := make(map[string]bool) // groups of a FIFO queue whose order would break
	for _, message := range messages {
		group := order(&message)
		if group != "" && held[group] {
			failures = append(failures, events.SQSBatchItemFailure{ItemIdentifier: message.MessageId})
			continue
		}
		if _, err := h.take(ctx, []byte(message.Body)); err != nil {
			h.logRefusal(ctx, err, "message", message.MessageId, "receives", message.Attributes["ApproximateReceiveCount"])
			failures = append(failures, events.SQSBatchItemFailure{ItemIdentifier: message.MessageId})
			held[group] = true
		}
	}
	return events.SQSEventResponse{BatchItemFailures: failures}
}

// order is the group within which a FIFO queue keeps its order; empty on other
// queues, which may have groups for fairness alone.
func order(message *events.SQSMessage) string {
	if !strings.HasSuffix(message.EventSourceARN, ".fifo") {
		return ""
	}
	return message.Attributes["MessageGroupId"]
}

func (h *Host) logRefusal(ctx context.Context, err *refused, about ...any) {
	about = append(about, "status", err.status, "reason", err.detail, "retryable", err.retryable())
	h.log.ErrorContext(ctx, "an event was refused", about...)
}

// take lets the function answer one event, as it would over HTTP.
func (h *Host) take(ctx context.Context, payload []byte) (json.RawMessage, *refused) {
	// IAM says who may invoke the function with an event: an event has no header for
	// credentials.
	ctx = auth.With(ctx, auth.Operator)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "/", bytes.NewReader(unwrap(payload)))
	if err != nil {
		return nil, &refused{http.StatusInternalServerError, err.Error()}
	}
	request.Header.Set("Content-Type", cloudEvents)
	answer := h.handle(request)
	if answer.status != http.StatusOK {
		return nil, &refused{answer.status, reason(answer.body.Bytes())}
	}
	return answer.body.Bytes(), nil
}

// reason is the detail of a problem (RFC 9457), or else the body.
func reason(body []byte) string {
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(body, &problem) == nil && problem.Detail != "" {
		return problem.Detail
	}
	return strings.TrimSpace(string(body))
}

// bridged is an event as EventBridge delivers it.
type bridged struct {
	ID         string          `json:"id"`
	Source     string          `json:"source"`
	DetailType string          `json:"detail-type"` //nolint:tagliatelle // as AWS spells it
	Time       string          `json:"time"`
	Detail     json.RawMessage `json:"detail"`
}

// unwrap returns the CloudEvent within an EventBridge event: its detail where
// that is one, else one of the same id, source, type and time whose data is
// the detail. Anything else is returned as it is, for the function to judge.
func unwrap(payload []byte) []byte {
	var from bridged
	if json.Unmarshal(payload, &from) != nil || from.DetailType == "" {
		return payload
	}
	var detail struct {
		SpecVersion string `json:"specversion"`
	}
	if json.Unmarshal(from.Detail, &detail) == nil && detail.SpecVersion != "" {
		return from.Detail
	}
	event, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": from.ID, "source": from.Source, "type": from.DetailType, "time": from.Time,
		"datacontenttype": "application/json", "data": from.Detail,
	})
	if err != nil { // a detail that is no JSON, which Unmarshal has seen
		return payload
	}
	return event
}
