// The flags of submit that concern the model: system prompt, sampling and
// response format.

package main

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
)

// addSampling adds the flags. The returned function copies them to a request.
//
// A flag that is not on the command line leaves its field unset, so that the
// model server's default applies: temperature 0 differs from no temperature.
func addSampling(flags *pflag.FlagSet) (apply func(*pb.ExecuteDeliberationRequest) error) {
	var (
		sampling          pb.Sampling
		system, schema    string
		temperature, topP float64
		maxTokens         int32
		seed              int64
	)
	flags.StringVar(&system, "system", "", "system `PROMPT` of all agents (default: the worker's)")
	flags.Float64Var(&temperature, "temperature", 0, "sampling `TEMPERATURE`, 0 to 2 (default: the model server's)")
	flags.Float64Var(&topP, "top-p", 0, "`MASS` of nucleus sampling, above 0 and up to 1 (default: the model server's)")
	flags.Int32Var(&maxTokens, "max-tokens", 0, "maximum of generated `TOKENS` for each agent (default: the model server's)")
	flags.Int64Var(&seed, "seed", 0, "`SEED` of the sampling (default: none)")
	flags.StringArrayVar(&sampling.Stop, "stop", nil, "`TEXT` at which the model stops; repeat the flag for each text")
	flags.StringVar(&sampling.ReasoningEffort, "reasoning-effort", "", "`EFFORT` of a reasoning model, such as low or high (default: the model server's)")
	flags.StringVar(&schema, "schema", "", "`FILE` with the JSON schema of the proposals")
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

// given returns a flag's value, or nil if the command line does not have it.
func given[T any](flags *pflag.FlagSet, name string, value T) *T {
	if !flags.Changed(name) {
		return nil
	}
	return &value
}
