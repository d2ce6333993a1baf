// The flags of submit that concern the model: system prompt, sampling and
// response format.

package main

import (
	pb "rayexecutor/proto/ray_executor/v1"
)

// addSampling adds the flags. The field of a flag that is not on the command line
// remains unset, so that the model server's default applies: temperature 0
// differs from no temperature.
func (s *submission) addSampling() {
	s.text("system", "", "system `PROMPT` of all agents (default: the worker's)", func(r *request, v string) {
		for _, agent := range r.GetAgents() {
			agent.SystemPrompt = v
		}
	})
	temperature := s.flags.Float64("temperature", 0, "sampling `TEMPERATURE`, 0 to 2 (default: the model server's)")
	s.sample("temperature", func(sampling *pb.Sampling) { sampling.Temperature = temperature })
	topP := s.flags.Float64("top-p", 0, "`MASS` of nucleus sampling, above 0 and up to 1 (default: the model server's)")
	s.sample("top-p", func(sampling *pb.Sampling) { sampling.TopP = topP })
	maxTokens := s.flags.Int32("max-tokens", 0, "maximum of generated `TOKENS` for each agent (default: the model server's)")
	s.sample("max-tokens", func(sampling *pb.Sampling) { sampling.MaxTokens = maxTokens })
	seed := s.flags.Int64("seed", 0, "`SEED` of the sampling (default: none)")
	s.sample("seed", func(sampling *pb.Sampling) { sampling.Seed = seed })
	stop := s.flags.StringArray("stop", nil, "`TEXT` at which the model stops; repeat the flag for each text")
	s.sample("stop", func(sampling *pb.Sampling) { sampling.Stop = *stop })
	effort := s.flags.String("reasoning-effort", "", "`EFFORT` of a reasoning model, such as low or high (default: the model server's)")
	s.sample("reasoning-effort", func(sampling *pb.Sampling) { sampling.ReasoningEffort = *effort })
	schema := s.flags.String("schema", "", "`FILE` with the JSON schema of the proposals")
	s.add("schema", func(r *request) error {
		text, err := readText(*schema)
		r.ResponseFormat = &pb.ResponseFormat{Format: &pb.ResponseFormat_JsonSchema{JsonSchema: text}}
		return err
	})
}

// sample adds a field of the request's sampling parameters.
func (s *submission) sample(flag string, set func(*pb.Sampling)) {
	s.add(flag, func(r *request) error {
		if r.GetSampling() == nil {
			r.Sampling = &pb.Sampling{}
		}
		set(r.GetSampling())
		return nil
	})
}
