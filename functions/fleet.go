package functions

import (
	"context"
	"maps"

	fleetpb "rayexecutor/proto/fleet/ray_executor/v1"
	pb "rayexecutor/proto/ray_executor/v1"
)

// fleet implements the service of newer fleets (proto/fleet). It converts their
// messages, and calls the RPCs of rpcs: limits and answers are the same. Errors
// have the same details, and name the same fields.
type fleet struct{ rpcs rpcs }

// ExecuteDeliberation submits a deliberation. Its id is new at each call, because
// the request has no field for one.
func (s fleet) ExecuteDeliberation(ctx context.Context, request *fleetpb.ExecuteDeliberationRequest) (*fleetpb.ExecuteDeliberationResponse, error) {
	constraints := request.GetConstraints()
	if constraints == nil {
		return s.submit(ctx, request, nil)
	}
	return s.submit(ctx, request, &pb.TaskConstraints{
		StoryId: constraints.GetStoryId(), PlanId: constraints.GetPlanId(), TimeoutSeconds: constraints.GetTimeoutSeconds(),
		MaxRetries: retriesOfFleet(constraints.GetMaxRetries()), Metadata: constraints.GetMetadata(),
	})
}

// ExecuteBacklogReviewDeliberation submits a deliberation about a story without a
// plan. Consumers of the agents' responses look for the story in the metadata.
func (s fleet) ExecuteBacklogReviewDeliberation(ctx context.Context, request *fleetpb.ExecuteBacklogReviewDeliberationRequest) (*fleetpb.ExecuteDeliberationResponse, error) {
	constraints := request.GetConstraints()
	if constraints == nil {
		return s.submit(ctx, request, nil)
	}
	return s.submit(ctx, request, &pb.TaskConstraints{
		StoryId: constraints.GetStoryId(), TimeoutSeconds: constraints.GetTimeoutSeconds(),
		MaxRetries: retriesOfFleet(constraints.GetMaxRetries()), Metadata: withStory(constraints.GetMetadata(), constraints.GetStoryId()),
	})
}

// fleetRequest is what the two requests share.
type fleetRequest interface {
	GetTaskId() string
	GetTaskDescription() string
	GetRole() string
	GetAgents() []*fleetpb.Agent
	GetVllmUrl() string
	GetVllmModel() string
}

func (s fleet) submit(ctx context.Context, request fleetRequest, constraints *pb.TaskConstraints) (*fleetpb.ExecuteDeliberationResponse, error) {
	receipt, err := s.rpcs.ExecuteDeliberation(ctx, &pb.ExecuteDeliberationRequest{
		TaskId: request.GetTaskId(), TaskDescription: request.GetTaskDescription(), Role: request.GetRole(), Constraints: constraints,
		Agents: agentsOfFleet(request.GetAgents()), VllmUrl: request.GetVllmUrl(), VllmModel: request.GetVllmModel(),
	})
	if err != nil {
		return nil, err
	}
	return &fleetpb.ExecuteDeliberationResponse{
		TaskId: request.GetTaskId(), DeliberationId: receipt.GetDeliberationId(),
		Status: receipt.GetStatus(), Message: receipt.GetMessage(),
	}, nil
}

// GetDeliberationStatus returns the state and the first result. The other results
// have no field in this API.
func (s fleet) GetDeliberationStatus(ctx context.Context, request *fleetpb.GetDeliberationStatusRequest) (*fleetpb.GetDeliberationStatusResponse, error) {
	status, err := s.rpcs.GetDeliberationStatus(ctx, &pb.GetDeliberationStatusRequest{DeliberationId: request.GetDeliberationId()})
	if err != nil {
		return nil, err
	}
	reply := &fleetpb.GetDeliberationStatusResponse{Status: status.GetStatus(), ErrorMessage: status.GetErrorMessage()}
	if result := status.GetResult(); result != nil {
		reply.Result = &fleetpb.DeliberationResult{
			AgentId: result.GetAgentId(), Proposal: result.GetProposal(), Reasoning: result.GetReasoning(),
			Score: result.GetScore(), Metadata: result.GetMetadata(),
		}
	}
	return reply, nil
}

// GetStatus returns health and statistics.
func (s fleet) GetStatus(ctx context.Context, request *fleetpb.GetStatusRequest) (*fleetpb.GetStatusResponse, error) {
	health, err := s.rpcs.GetStatus(ctx, &pb.GetStatusRequest{IncludeStats: request.GetIncludeStats()})
	if err != nil {
		return nil, err
	}
	stats := health.GetStats()
	return &fleetpb.GetStatusResponse{
		Status: health.GetStatus(), UptimeSeconds: health.GetUptimeSeconds(), Stats: &fleetpb.RayExecutorStats{
			TotalDeliberations: stats.GetTotalDeliberations(), ActiveDeliberations: stats.GetActiveDeliberations(),
			CompletedDeliberations: stats.GetCompletedDeliberations(), FailedDeliberations: stats.GetFailedDeliberations(),
			AverageExecutionTimeMs: stats.GetAverageExecutionTimeMs(),
		},
	}, nil
}

// GetActiveJobs lists what is queued or running, at most 1,000 of them.
func (s fleet) GetActiveJobs(ctx context.Context, _ *fleetpb.GetActiveJobsRequest) (*fleetpb.GetActiveJobsResponse, error) {
	active, err := s.rpcs.GetActiveJobs(ctx, &pb.GetActiveJobsRequest{})
	if err != nil {
		return nil, err
	}
	jobs := make([]*fleetpb.JobInfo, len(active.GetJobs()))
	for i, job := range active.GetJobs() {
		jobs[i] = &fleetpb.JobInfo{
			JobId: job.GetJobId(), Name: job.GetName(), Status: job.GetStatus(), SubmissionId: job.GetSubmissionId(),
			Role: job.GetRole(), TaskId: job.GetTaskId(), StartTime: job.GetStartTime(), EndTime: job.GetEndTime(), Runtime: job.GetRuntime(),
		}
	}
	return &fleetpb.GetActiveJobsResponse{Jobs: jobs}, nil
}

func agentsOfFleet(agents []*fleetpb.Agent) []*pb.Agent {
	converted := make([]*pb.Agent, len(agents))
	for i, agent := range agents {
		converted[i] = &pb.Agent{
			Id: agent.GetId(), Role: agent.GetRole(), Model: agent.GetModel(), PromptTemplate: agent.GetPromptTemplate(),
		}
	}
	return converted
}

// retriesOfFleet reads 0 as unset, for the field has no presence: the default
// applies.
func retriesOfFleet(retries int32) *int32 {
	if retries == 0 {
		return nil
	}
	return &retries
}

// storyKey is where the consumers look for the story.
const storyKey = "story_id"

// withStory adds a story to metadata that has none. Metadata that has as many
// entries as are allowed stays as it is: one more would have it refused.
func withStory(metadata map[string]string, story string) map[string]string {
	if _, has := metadata[storyKey]; has || story == "" || len(metadata) >= maxMetadata {
		return metadata
	}
	added := maps.Clone(metadata)
	if added == nil {
		added = make(map[string]string, 1)
	}
	added[storyKey] = story
	return added
}

// maxMetadata is the limit of TaskConstraints.metadata in the proto file.
const maxMetadata = 64
