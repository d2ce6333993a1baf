// Command ray-executor serves, deploys and calls the ray-executor.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // the certificate authorities of an image that has none
)

func main() {
	ctx, hurry := untilStopped()
	program := program{args: os.Args[1:], environ: os.Environ(), out: os.Stdout, errors: os.Stderr, hurry: hurry}
	err := program.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ray-executor:", err)
		os.Exit(1)
	}
}

// program is one run of the command, as tests can make it too.
type program struct {
	args    []string
	environ []string
	out     io.Writer
	errors  io.Writer
	// hurry is closed when the process is asked a second time to stop. Nil: it
	// never is.
	hurry <-chan struct{}
}

// run runs the command until it is done or ctx ends.
func (p program) run(ctx context.Context) error {
	root := &cobra.Command{
		Use:   "ray-executor",
		Short: "Run agent deliberations on Ray clusters and announce their outcome on NATS",
		Long: `ray-executor runs agent deliberations on Ray clusters and announces their
outcome on NATS.

Settings come from the environment, or from ray-executor.env in the working
directory; docs/settings.md lists them.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetArgs(p.args)
	root.SetOut(p.out)
	root.SetErr(p.errors)
	root.AddGroup(&cobra.Group{ID: "run", Title: "Running it:"}, &cobra.Group{ID: "call", Title: "Calling it:"})
	p.add(root, "run", p.devCommand, p.serveCommand, p.keeperCommand, p.relayCommand, p.deadCommand, p.brokerDeadLettersCommand, p.deployCommand, p.packageCommand, p.modelCommand)
	p.add(root, "call", p.submitCommand, p.statusCommand, p.watchCommand, p.cancelCommand, p.listCommand, p.statsCommand, p.doctorCommand)
	err := root.ExecuteContext(ctx)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil //nolint:nilerr // it was asked to stop, and has
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
