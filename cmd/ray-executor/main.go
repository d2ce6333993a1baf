// Command ray-executor serves, deploys and calls the ray-executor.
//
// Each command has a file with its name. wiring.go makes the connections to
// NATS and Ray, settings.go reads the settings, client.go calls a function
// server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // certificate authorities for images without any
)

func main() {
	ctx, force := untilStopped()
	program := program{args: os.Args[1:], environ: os.Environ(), out: os.Stdout, errors: os.Stderr, force: force}
	err := program.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ray-executor:", err)
		os.Exit(1)
	}
}

// program is one run of the command. A test makes one with its own arguments,
// environment and output.
type program struct {
	args    []string
	environ []string
	out     io.Writer
	errors  io.Writer
	// force is closed by a second signal: the process must end at once. nil
	// never is.
	force <-chan struct{}
}

// run runs the command until it returns or ctx ends.
func (p program) run(ctx context.Context) error {
	root := &cobra.Command{
		Use:   "ray-executor",
		Short: "Run agent deliberations on Ray clusters and publish their outcome on NATS",
		Long: `ray-executor runs agent deliberations on Ray clusters and publishes their
outcome on NATS.

Settings come from the environment, or from ray-executor.env in the working
directory; docs/settings.md lists them.`,
		Example: `  ray-executor dev
  ray-executor submit "Name three risks of caching" --wait`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetArgs(p.args)
	root.SetOut(p.out)
	root.SetErr(p.errors)
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run the service:"}, &cobra.Group{ID: "call", Title: "Call the service:"})
	p.add(root, "run", p.devCommand, p.serveCommand, p.keeperCommand, p.relayCommand, p.deadCommand, p.brokerDeadLettersCommand, p.deployCommand, p.packageCommand, p.modelCommand)
	p.add(root, "call", p.submitCommand, p.statusCommand, p.watchCommand, p.cancelCommand, p.listCommand, p.statsCommand, p.doctorCommand)
	err := root.ExecuteContext(ctx)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil //nolint:nilerr // a signal stopped it, which is a normal end
	}
	return err
}

func (p program) add(root *cobra.Command, group string, commands ...func() *cobra.Command) {
	for _, build := range commands {
		command := build()
		command.GroupID = group
		root.AddCommand(command)
	}
}
