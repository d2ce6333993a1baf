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
	pb "rayexecutor/proto/ray_executor/v1"
)

// response is what Orchestrators of the Python service hear of an agent. The
// fields stand in the order in which that service wrote them.
type response struct {
	EventType      string          `json:"event_type"`
	Payload        responsePayload `json:"payload"`
	IdempotencyKey string          `json:"idempotency_key"`
	// CorrelationID is the deliberation's id: what all its agents have in
	// common, whatever the task is called.
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
	// ResultRef names the object that has the result where the content is too
	// large for a message. The Python service had no such thing.
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

// isoTime is how Python writes a time in UTC; its older versions read no other
// form.
const isoTime = "2006-01-02T15:04:05.000000+00:00"

// noTemperature stands where a result names none: agents' requests leave it to
// the model server, and 1 is the API's default. Consumers expect a float.
const noTemperature = "1.0"

func (k *Keeper) tellAgents(ctx context.Context) error {
	return k.journal.Ends(ctx, journal.Responder, k.respond)
}

// respond tells of each agent in an end's results.
func (k *Keeper) respond(ctx context.Context, end journal.Delivery) error {
	id, _, err := ended(end.Event)
	if err != nil {
		return err
	}
	outcome, _ := end.Event.(interface {
		GetTaskId() string
		GetResults() []*pb.DeliberationResult
	})
	story, err := k.journal.Read(ctx, id)
	if err != nil {
		return err
	}
	requested := story.Requested
	if requested == nil { // the journal no longer keeps it: tell what is known
		requested = &pb.DeliberationRequested{TaskId: outcome.GetTaskId()}
	}
	agents := max(len(requested.GetRequest().GetAgents()), len(outcome.GetResults()))
	var failure error
	for index, result := range outcome.GetResults() {
		told := responseTo(id, end.Time, requested, agents, result)
		// The two kinds may be kept by two streams: one keeps nothing from the other.
		if err := k.sendResponse(ctx, told, index, result, end.Attempt); err != nil {
			failure = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if deliberation.AsError(failure).Code == deliberation.Unavailable && ctx.Err() == nil {
		if k.complaints.Due() {
			k.log.Warn("an agent's response could not be told; it comes again", "deliberation", id, "error", failure)
		}
		return &journal.LaterError{After: retryPause(end.Attempt, 0), Cause: failure}
	}
	return failure
}

// sendResponse publishes what is told of an agent; content that no message can
// hold goes to the object store.
func (k *Keeper) sendResponse(ctx context.Context, told response, index int, result *pb.DeliberationResult, attempt uint64) error {
	data, err := marshalResponse(told)
	if err != nil {
		return err
	}
	room := k.journal.MaxAnnouncement()
	if len(data) > room && told.Payload.Proposal != nil {
		light, err := k.lightResult(ctx, told, index, result)
		if err != nil && (deliberation.AsError(err).Code != deliberation.LimitReached || attempt < patientFor) {
			return err
		}
		told.Payload.Proposal.Content, told.Payload.ResultRef = "", light
		if data, err = marshalResponse(told); err != nil {
			return err
		}
	}
	if len(data) > room {
		if data, err = marshalResponse(shorten(told, room/128)); err != nil {
			return err
		}
	}
	header := map[string][]string{"content-type": {events.JSON}}
	return k.journal.Announce(ctx, told.EventType, told.IdempotencyKey, header, data)
}

// shorten cuts every text of a response to so many bytes: in JSON they may take
// six times as much.
func shorten(told response, most int) response {
	payload := &told.Payload
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
	return told
}

func (k *Keeper) lightResult(ctx context.Context, told response, index int, result *pb.DeliberationResult) (string, error) {
	var whole proto.Message = &pb.AgentCompleted{
		DeliberationId: told.CorrelationID, TaskId: told.Payload.TaskID, AgentIndex: int32(index), Result: result,
	}
	light, err := k.journal.Offload(ctx, whole)
	if err != nil {
		return "", err
	}
	return light.(*pb.AgentCompleted).GetResultRef(), nil
}

// marshalResponse writes text as it is: encoding/json would escape what HTML
// needs escaped.
func marshalResponse(told response) ([]byte, error) {
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(told); err != nil {
		return nil, fmt.Errorf("tell of agent %s: %w", told.Payload.AgentID, err)
	}
	return bytes.TrimSuffix(data.Bytes(), []byte("\n")), nil
}

// responseTo is what is told of one agent of so many. Its time is that of the
// end, so that a repeat is the same bytes.
func responseTo(id string, at time.Time, requested *pb.DeliberationRequested, agents int, result *pb.DeliberationResult) response {
	eventType := events.ResponseFailed
	if deliberation.Proposed(result) {
		eventType = events.ResponseCompleted
	}
	key := sha256.Sum256([]byte(eventType + ":" + id + ":" + result.GetAgentId()))
	timestamp := at.UTC().Format(isoTime)
	payload := payloadOf(requested, result)
	payload.Timestamp, payload.NumAgents = timestamp, agents
	return response{
		EventType: eventType, Payload: payload, IdempotencyKey: hex.EncodeToString(key[:]),
		CorrelationID: id, Timestamp: timestamp, Producer: "ray-executor",
	}
}

func payloadOf(requested *pb.DeliberationRequested, result *pb.DeliberationResult) responsePayload {
	request, metadata := requested.GetRequest(), result.GetMetadata()
	agent := agentOf(request, result.GetAgentId())
	payload := responsePayload{
		TaskID:     cmp.Or(request.GetConstraints().GetMetadata()["task_id"], requested.GetTaskId()),
		AgentID:    result.GetAgentId(),
		Role:       cmp.Or(metadata["role"], agent.GetRole(), request.GetRole()),
		DurationMS: number(metadata["duration_ms"]), Operations: []struct{}{}, AuditTrail: []struct{}{},
		Model:       cmp.Or(metadata["model"], agent.GetModel(), requested.GetVllmModel()),
		Constraints: constraintsOf(requested),
	}
	if !deliberation.Proposed(result) {
		payload.Status = string(deliberation.Failed)
		payload.Error, payload.ErrorType = metadata["error"], cmp.Or(metadata["error_type"], "error")
		return payload
	}
	payload.Status, payload.Success = string(deliberation.Completed), true
	payload.Proposal = &responseProposal{
		Content: result.GetProposal(), AuthorID: payload.AgentID, AuthorRole: payload.Role, Model: payload.Model,
		Temperature: temperature(metadata["temperature"]), Tokens: number(metadata["total_tokens"]),
	}
	return payload
}

func agentOf(request *pb.ExecuteDeliberationRequest, id string) *pb.Agent {
	for _, agent := range request.GetAgents() {
		if agent.GetId() == id {
			return agent
		}
	}
	return nil
}

// constraintsOf tells the constraints as they held, defaults included.
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

// number reads a count out of a result's metadata; 0 where there is none.
func number(text string) int64 {
	value, _ := strconv.ParseInt(text, 10, 64)
	return value
}

func temperature(text string) json.Number {
	if json.Valid([]byte(text)) {
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			return json.Number(text)
		}
	}
	return noTemperature
}
