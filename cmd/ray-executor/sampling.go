package main

import (
	"github.com/spf13/pflag"

	pb "rayexecutor/proto/ray_executor/v1"
)

// addSampling adds the flags that set sampling parameters.
func addSampling(flags *pflag.FlagSet, sampling *pb.Sampling) {
	sampling.Temperature, sampling.TopP = new(float64), new(float64)
	sampling.MaxTokens, sampling.Seed = new(int32), new(int64)
	flags.Float64Var(sampling.Temperature, "temperature", 0, "the models' `TEMPERATURE`, 0 to 2; the model server's default where not given")
	flags.Float64Var(sampling.TopP, "top-p", 0, "the `MASS` of nucleus sampling, above 0 and up to 1")
	flags.Int32Var(sampling.MaxTokens, "max-tokens", 0, "the most `TOKENS` that a model generates")
	flags.Int64Var(sampling.Seed, "seed", 0, "the `SEED` of sampling")
	flags.StringArrayVar(&sampling.Stop, "stop", nil, "a `TEXT` at which the models stop; repeat it")
	flags.StringVar(&sampling.ReasoningEffort, "reasoning-effort", "", "how long a reasoning model thinks: `EFFORT` in the server's words, such as low or high")
}

// changed clears what no flag has set, and reports whether anything is left.
func changed(flags *pflag.FlagSet, sampling *pb.Sampling) bool {
	any := len(sampling.GetStop()) > 0 || sampling.GetReasoningEffort() != ""
	for name, unset := range map[string]func(){
		"temperature": func() { sampling.Temperature = nil },
		"top-p":       func() { sampling.TopP = nil },
		"max-tokens":  func() { sampling.MaxTokens = nil },
		"seed":        func() { sampling.Seed = nil },
	} {
		if flags.Changed(name) {
			any = true
		} else {
			unset()
		}
	}
	return any
}
