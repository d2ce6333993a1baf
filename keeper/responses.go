package keeper

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/keeper/internal/delivery"
	pb "rayexecutor/proto/ray_executor/v1"
)

// response is the message about one agent, in the form that the Python service
// published and its Orchestrators read. The order of the fields is that of the
// service; golden files fix the bytes.
type response struct {
	EventType      string          `json:"event_type"`
	Payload        responsePayload `json:"payload"`
	IdempotencyKey string          `json:"idempotency_key"`
	// CorrelationID is the deliberation's id: consumers group the agents by it.
	CorrelationID string   `json:"correlation_id"`
	Timestamp     string   `json:"timestamp"`
	Producer      string   `json:"producer"`
	Metadata      struct{} `json:"metadata"`
}

type responsePayload struct {
	TaskID     string            `json:"task_id"`
	AgentID    string            `json:"agent_id"`
	Role       string            `json:"role"`
	Status     string            `json:"status"`
	DurationMS int64             `json:"duration_ms"`
	Timestamp  string            `json:"timestamp"`
	Proposal   *responseProposal `json:"proposal,omitempty"`
	// ResultRef names the object with the result, if the content is too large for a
	// message. It is an addition to the form of the Python service.
	ResultRef   string              `json:"result_ref,omitempty"`
	Operations  []struct{}          `json:"operations"`
	Artifacts   struct{}            `json:"artifacts"`
	AuditTrail  []struct{}          `json:"audit_trail"`
	Error       string              `json:"error,omitempty"`
	ErrorType   string              `json:"error_type,omitempty"`
	Success     bool                `json:"success"`
	Model       string              `json:"model"`
	EnableTools bool                `json:"enable_tools"`
	Diversity   bool                `json:"diversity"`
	NumAgents   int                 `json:"num_agents"`
	Constraints responseConstraints `json:"constraints"`
}

type responseProposal struct {
	Content     string      `json:"content"`
	AuthorID    string      `json:"author_id"`
	AuthorRole  string      `json:"author_role"`
	Model       string      `json:"model"`
	Temperature json.Number `json:"temperature"`
	Tokens      int64       `json:"tokens"`
}

type responseConstraints struct {
	StoryID    string            `json:"story_id"`
	PlanID     string            `json:"plan_id"`
	Timeout    int32             `json:"timeout"`
	MaxRetries int32             `json:"max_retries"`
	Metadata   map[string]string `json:"metadata"`
}

// isoTime is the form of datetime.isoformat in UTC. Before Python 3.11
// datetime.fromisoformat reads no other.
const isoTime = "2006-01-02T15:04:05.000000+00:00"

// defaultTemperature replaces a missing one: the request left it to the model
// server, whose default is 1. Consumers expect a float.
const defaultTemperature = "1.0"

// publishResponses publishes the responses of ends until ctx ends or NATS is away.
// It has a consumer of its own: a destination that refuses responses delays no
// announcement.
func (k *Keeper) publishResponses(ctx context.Context) error {
	return k.journal.Ends(ctx, journal.Responder, k.respond)
}

// respond publishes a response for each agent in an end's results. Repeating it
// is safe: each response has a fixed id and fixed bytes. So after a failure of one
// the whole end is redelivered.
func (k *Keeper) respond(ctx context.Context, end journal.Delivery) error {
	id, _, err := delivery.Ended(end.Event)
	if err != nil {
		return err
	}
	// Every kind of end has the results that were recorded; an agent without one has
	// no response.
	outcome, _ := end.Event.(interface {
		GetTaskId() string
		GetResults() []*pb.DeliberationResult
	})
	history, err := k.journal.Read(ctx, id)
	if err != nil {
		return err
	}
	requested := history.Requested
	if requested == nil { // the journal has lost it: the results alone must do
		requested = &pb.DeliberationRequested{TaskId: outcome.GetTaskId()}
	}
	// A worker writes one result for each agent of the request; the larger count is
	// right for a request that the journal has lost as well.
	agents := max(len(requested.GetRequest().GetAgents()), len(outcome.GetResults()))
	var failure error
	for index, result := range outcome.GetResults() {
		message := responseTo(id, end.Time, requested, agents, result)
		// The two subjects may belong to two streams: a failure of one must not stop
		// the responses on the other.
		if err := k.publishResponse(ctx, message, index, result, end.Attempt); err != nil {
			failure = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	// Only this end waits: a plain Unavailable would stop the delivery of all ends, and
	// the other destination may work.
	if deliberation.AsError(failure).Code == deliberation.Unavailable && ctx.Err() == nil {
		if k.warnings.Due() {
			k.log.Warn("the response of an agent could not be published; retrying", "deliberation", id, "error", failure)
		}
		return &journal.LaterError{After: delivery.Pause(end.Attempt, 0), Cause: failure}
	}
	return failure
}

// publishResponse publishes the response of one agent. If it is too large, first
// its content goes to the object store, then its texts are cut.
func (k *Keeper) publishResponse(ctx context.Context, message response, index int, result *pb.DeliberationResult, attempt uint64) error {
	// Before texts are cut.
	task := message.Payload
	subject := events.ResponseSubject(message.EventType, task.TaskID, task.Constraints.Metadata["task_type"])
	data, err := marshalResponse(message)
	if err != nil {
		return err
	}
	limit := k.journal.MaxAnnouncement()
	if len(data) > limit && message.Payload.Proposal != nil {
		// A full object store may get room. After OffloadAttempts the response goes
		// without its content, so that its consumer does not wait for this agent for ever.
		ref, err := k.offloadResult(ctx, message, index, result)
		if err != nil && (deliberation.AsError(err).Code != deliberation.LimitReached || attempt < delivery.OffloadAttempts) {
			return err
		}
		message.Payload.Proposal.Content, message.Payload.ResultRef = "", ref
		if data, err = marshalResponse(message); err != nil {
			return err
		}
	}
	if len(data) > limit {
		if data, err = marshalResponse(shorten(message, limit/128)); err != nil {
			return err
		}
	}
	header := map[string][]string{"content-type": {events.JSON}}
	return k.journal.Announce(ctx, subject, message.IdempotencyKey, header, data)
}

// shorten cuts every text of a response to so many bytes, which JSON may multiply
// by six. The correlation id and the idempotency key stay whole.
func shorten(message response, most int) response {
	payload := &message.Payload
	texts := []*string{
		&payload.TaskID, &payload.AgentID, &payload.Role, &payload.Error, &payload.ErrorType, &payload.Model,
		&payload.Constraints.StoryID, &payload.Constraints.PlanID,
	}
	if payload.Proposal != nil {
		proposal := *payload.Proposal
		payload.Proposal = &proposal
		texts = append(texts, &proposal.AuthorID, &proposal.AuthorRole, &proposal.Model)
	}
	for _, text := range texts {
		*text = events.Cut(*text, most)
	}
	payload.Constraints.Metadata = map[string]string{}
	return message
}

// offloadResult stores a result and returns the name of its object, which follows
// from the content: repeating it stores nothing twice.
func (k *Keeper) offloadResult(ctx context.Context, message response, index int, result *pb.DeliberationResult) (string, error) {
	var whole proto.Message = &pb.AgentCompleted{
		DeliberationId: message.CorrelationID, TaskId: message.Payload.TaskID, AgentIndex: int32(index), Result: result,
	}
	light, err := k.journal.Offload(ctx, whole)
	if err != nil {
		return "", err
	}
	return light.(*pb.AgentCompleted).GetResultRef(), nil
}

// marshalResponse encodes a response without the HTML escapes of encoding/json,
// which the Python service did not write.
func marshalResponse(message response) ([]byte, error) {
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(message); err != nil {
		return nil, fmt.Errorf("encode the response of agent %s: %w", message.Payload.AgentID, err)
	}
	return bytes.TrimSuffix(data.Bytes(), []byte("\n")), nil
}

// responseTo returns the response of one of so many agents. Its time is that of
// the end, so that a repeat has the same bytes.
func responseTo(id string, at time.Time, requested *pb.DeliberationRequested, agents int, result *pb.DeliberationResult) response {
	eventType := events.ResponseFailed
	if deliberation.Proposed(result) {
		eventType = events.ResponseCompleted
	}
	// The key is the message id, by which JetStream drops a repeat. It names the agent:
	// the keys of the Python service did not, and collided.
	key := sha256.Sum256([]byte(eventType + ":" + id + ":" + result.GetAgentId()))
	timestamp := at.UTC().Format(isoTime)
	payload := payloadOf(requested, result)
	payload.Timestamp, payload.NumAgents = timestamp, agents
	return response{
		EventType: eventType, Payload: payload, IdempotencyKey: hex.EncodeToString(key[:]),
		CorrelationID: id, Timestamp: timestamp, Producer: "ray-executor",
	}
}

// payloadOf merges the request with the result's metadata, which has precedence:
// it records what the worker used.
func payloadOf(requested *pb.DeliberationRequested, result *pb.DeliberationResult) responsePayload {
	request, metadata := requested.GetRequest(), result.GetMetadata()
	agent := agentOf(request, result.GetAgentId())
	payload := responsePayload{
		// The Orchestrator looks its task up by the id that it put in the metadata.
		TaskID:     cmp.Or(request.GetConstraints().GetMetadata()["task_id"], requested.GetTaskId()),
		AgentID:    result.GetAgentId(),
		Role:       cmp.Or(metadata["role"], agent.GetRole(), request.GetRole()),
		DurationMS: number(metadata["duration_ms"]), Operations: []struct{}{}, AuditTrail: []struct{}{},
		Model:       cmp.Or(metadata["model"], agent.GetModel(), requested.GetVllmModel()),
		Constraints: constraintsOf(requested),
	}
	if !deliberation.Proposed(result) {
		payload.Status = string(deliberation.Failed)
		payload.Error = metadata["error"]
		if metadata["status"] != "not_needed" { // that is no failure, and has no type
			payload.ErrorType = cmp.Or(metadata["error_type"], string(deliberation.Damaged))
		}
		return payload
	}
	payload.Status, payload.Success = string(deliberation.Completed), true
	payload.Proposal = &responseProposal{
		Content: result.GetProposal(), AuthorID: payload.AgentID, AuthorRole: payload.Role, Model: payload.Model,
		Temperature: temperature(metadata["temperature"]), Tokens: number(metadata["total_tokens"]),
	}
	return payload
}

// agentOf finds an agent of the request; nil if the journal has lost the request.
func agentOf(request *pb.ExecuteDeliberationRequest, id string) *pb.Agent {
	for _, agent := range request.GetAgents() {
		if agent.GetId() == id {
			return agent
		}
	}
	return nil
}

// constraintsOf returns the constraints in force, defaults included.
func constraintsOf(requested *pb.DeliberationRequested) responseConstraints {
	constraints := requested.GetRequest().GetConstraints()
	metadata := constraints.GetMetadata()
	if metadata == nil {
		metadata = map[string]string{} // consumers look into it
	}
	return responseConstraints{
		StoryID: constraints.GetStoryId(), PlanID: constraints.GetPlanId(),
		Timeout: requested.GetTimeoutSeconds(), MaxRetries: requested.GetMaxRetries(), Metadata: metadata,
	}
}

// number reads a count from a result's metadata; 0 if it is missing.
func number(text string) int64 {
	value, _ := strconv.ParseInt(text, 10, 64)
	return value
}

// temperature returns a number that is valid in JSON, in its original form. A
// worker's metadata is text, and one number that is none (NaN, "") would make the
// whole message unreadable.
func temperature(text string) json.Number {
	if json.Valid([]byte(text)) {
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			return json.Number(text)
		}
	}
	return defaultTemperature
}
