// Command ray-executor serves, deploys and calls the ray-executor.
//
// Each command has a file with its name. wiring.go makes the connections to
// NATS and Ray, settings.go reads the settings, client.go calls a function
// server.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // certificate authorities for images without any
)

func main() {
	ctx, force := untilStopped()
	program := program{args: os.Args[1:], environ: os.Environ(), out: os.Stdout, errors: os.Stderr, force: force}
	err := program.run(ctx)
	if err != nil {
		fmt.Fprintln(terminal{os.Stderr}, "ray-executor:", err)
	}
	os.Exit(exitCode(err))
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
	p.errors = terminal{p.errors}
	ran, err := p.root().ExecuteContextC(ctx)
	switch {
	case err == nil || ctx.Err() == nil:
		return explain(err)
	case errors.Is(err, context.Canceled) && slices.Contains(services, ran.CommandPath()):
		return nil
	default:
		return interrupted(ctx, err)
	}
}

// root returns the command with all its subcommands.
func (p program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ray-executor",
		Short: "Run agent deliberations on Ray clusters and publish their outcome on NATS",
		Long: `ray-executor runs agent deliberations on Ray clusters and publishes their
outcome on NATS.

Settings come from the environment, or from ray-executor.env in the working
directory; docs/settings.md lists them. The client commands read only
RAY_EXECUTOR_SERVER and RAY_EXECUTOR_TOKEN.

` + exitCodes,
		Example: `  ray-executor dev
  ray-executor submit "Name three risks of caching" --wait`,
		SilenceUsage: true, SilenceErrors: true,
		Version: version(),
		Args:    cobra.ArbitraryArgs, RunE: subcommandNeeded,
	}
	root.SetArgs(p.args)
	root.SetOut(p.out)
	root.SetErr(p.errors)
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run the service:"}, &cobra.Group{ID: "call", Title: "Call the service:"})
	p.add(root, "run", p.devCommand, p.serveCommand, p.keeperCommand, p.relayCommand, p.deadCommand, p.brokerDeadLettersCommand, p.deployCommand, p.packageCommand, p.modelCommand)
	p.add(root, "call", p.submitCommand, p.statusCommand, p.watchCommand, p.cancelCommand, p.listCommand, p.statsCommand, p.doctorCommand)
	markUsage(root)
	return root
}

// services run until a signal stops them, which is a normal end. The other
// commands have work to finish: a signal is an error of theirs.
var services = []string{
	"ray-executor dev", "ray-executor serve", "ray-executor keeper", "ray-executor relay",
	"ray-executor broker-dead-letters", "ray-executor model",
}

// What the Makefile's -ldflags set: the version, and the commit that it was
// built from.
var release, commit string

// version is the version, the commit and the Go of the build. `go install` of
// a version sets no flags: then it is the module's.
func version() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	return fmt.Sprintf("%s (commit %s, %s %s/%s)",
		cmp.Or(release, build.Main.Version, "unknown"), cmp.Or(commit, "unknown"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// environment returns a variable of the environment, or an empty string.
func (p program) environment(name string) string {
	for _, variable := range slices.Backward(p.environ) { // the last one wins, as in a shell
		if value, found := strings.CutPrefix(variable, name+"="); found {
			return value
		}
	}
	return ""
}

func (p program) add(root *cobra.Command, group string, commands ...func() *cobra.Command) {
	for _, build := range commands {
		command := build()
		command.GroupID = group
		root.AddCommand(command)
	}
}
