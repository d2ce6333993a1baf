package main

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
)

// addSampling adds the flags for the system prompt, the sampling parameters and
// the schema of proposals.
// The function that it returns sets on a request what the flags gave.
func addSampling(flags *pflag.FlagSet) (apply func(*pb.ExecuteDeliberationRequest) error) {
	var (
		sampling          pb.Sampling
		system, schema    string
		temperature, topP float64
		maxTokens         int32
		seed              int64
	)
	flags.StringVar(&system, "system", "", "the system `PROMPT` of all agents; empty for the default")
	flags.Float64Var(&temperature, "temperature", 0, "the models' `TEMPERATURE`, 0 to 2; the model server's default where not given")
	flags.Float64Var(&topP, "top-p", 0, "the `MASS` of nucleus sampling, above 0 and up to 1")
	flags.Int32Var(&maxTokens, "max-tokens", 0, "the most `TOKENS` that a model generates")
	flags.Int64Var(&seed, "seed", 0, "the `SEED` of sampling")
	flags.StringArrayVar(&sampling.Stop, "stop", nil, "a `TEXT` at which the models stop; repeat it")
	flags.StringVar(&sampling.ReasoningEffort, "reasoning-effort", "", "how long a reasoning model thinks: `EFFORT` in the server's words, such as low or high")
	flags.StringVar(&schema, "schema", "", "a `FILE` with the JSON schema that proposals must fit")
	return func(request *pb.ExecuteDeliberationRequest) error {
		if schema != "" {
			text, err := os.ReadFile(schema)
			if err != nil {
				return fmt.Errorf("--schema: %w", err)
			}
			request.ResponseFormat = &pb.ResponseFormat{Format: &pb.ResponseFormat_JsonSchema{JsonSchema: string(text)}}
		}
		sampling.Temperature = given(flags, "temperature", temperature)
		sampling.TopP = given(flags, "top-p", topP)
		sampling.MaxTokens = given(flags, "max-tokens", maxTokens)
		sampling.Seed = given(flags, "seed", seed)
		if proto.Size(&sampling) > 0 {
			request.Sampling = &sampling
		}
		for _, agent := range request.GetAgents() {
			agent.SystemPrompt = system
		}
		return nil
	}
}

// given is a flag's value, or nil where the command line does not have it.
func given[T any](flags *pflag.FlagSet, name string, value T) *T {
	if !flags.Changed(name) {
		return nil
	}
	return &value
}
