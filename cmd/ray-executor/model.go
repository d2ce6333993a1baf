// ray-executor model runs a stand-in for a vLLM server.

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
		Short: "Run a stand-in for a vLLM server, to test faults",
		Long: `Run a stand-in for a vLLM server: OpenAI-compatible chat completions. Requests to
/standin set the delay, errors and content of each model while it runs.`,
		Example: `  ray-executor model --address 127.0.0.1:8000
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
	command.Flags().StringVar(&options.Address, "address", "127.0.0.1:8000", "`HOST:PORT` to listen on")
	command.Flags().StringVar(&options.APIKey, "api-key", "", "bearer `KEY` that requests must have (default: none)")
	command.Flags().StringSliceVar(&options.Models, "model", nil, "`MODEL` that exists; repeat the flag for each (default: any)")
	command.Flags().DurationVar(&options.Default.Delay, "delay", 0, "`DURATION` until an answer, such as 2s")
	return command
}

// runModel serves a stand-in on a port of the loopback interface, or on a free
// port if that one is taken, until stop is called. It outlives ctx: the other
// parts of dev may need the model while they stop.
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
		_ = server.Serve(ctx, listener) // it ends only when stop cancels ctx
	}()
	return "http://" + listener.Addr().String(), func() { cancel(); <-ended }, nil
}
