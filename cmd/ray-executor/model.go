package main

import (
	"context"
	"errors"
	"syscall"

	"github.com/spf13/cobra"

	"rayexecutor/standin"
)

func (p program) modelCommand() *cobra.Command {
	var options standin.Options
	command := &cobra.Command{
		Use:   "model",
		Short: "Run a stand-in for a vLLM server, to rehearse faults with",
		Long: `Run a stand-in for a vLLM server: OpenAI-compatible chat completions whose
delay, errors and content can be set for each model while it runs:

  curl -X PUT localhost:8000/standin/behaviours/slow -d '{"delay": "2s"}'
  curl localhost:8000/standin/requests`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, log, err := p.load()
			if err != nil {
				return err
			}
			options.Logger = log
			return standin.Serve(command.Context(), options)
		},
	}
	command.Flags().StringVar(&options.Address, "address", "127.0.0.1:8000", "where to listen, `HOST:PORT`")
	command.Flags().StringVar(&options.APIKey, "api-key", "", "the bearer `KEY` to want; empty for none")
	command.Flags().StringSliceVar(&options.Models, "model", nil, "a `MODEL` that exists; repeat it; none for any")
	command.Flags().DurationVar(&options.Default.Delay, "delay", 0, "how long an answer takes, such as 2s")
	return command
}

// runModel serves a stand-in on a port of this machine, or on another where it is
// taken, until stop is called.
func runModel(ctx context.Context, port int, options standin.Options) (url string, stop func(), err error) {
	server, err := standin.New(options)
	if err != nil {
		return "", nil, err
	}
	listener, err := listen(ctx, loopback[0], port)
	if errors.Is(err, syscall.EADDRINUSE) {
		listener, err = listen(ctx, loopback[0], 0)
	}
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ctx, listener) // nobody else serves on this listener
	}()
	return "http://" + listener.Addr().String(), func() { cancel(); <-ended }, nil
}
