// ray-executor package writes the Ray worker's package to a file, for Serve
// configurations that something else applies.

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"rayexecutor/ray/worker"
)

func (p program) packageCommand() *cobra.Command {
	var pip bool
	command := &cobra.Command{
		Use:   "package FILE",
		Short: "Write the Ray worker's package to a file",
		Long: `Write the Ray worker's package to a zip file: the same package that deploy
uploads. Use it with a Serve configuration that something else applies, such as
a RayService. Copy FILE to each Ray node that runs the worker, and name it in the
application's runtime_env.working_dir as file:///path/to/FILE; its name must end
in .zip. deploy/base/ray.yaml is an example. The command prints the file's name
and its hash.`,
		Example: `  ray-executor package worker.zip`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pack, err := worker.New(pip)
			if err != nil {
				return err
			}
			if err := os.WriteFile(args[0], pack.Zip, 0o644); err != nil { //nolint:gosec // Ray reads it as another user
				return fmt.Errorf("write the package: %w: name a file that can be written", err)
			}
			fmt.Fprintf(p.out, "%s %s\n", args[0], pack.Hash)
			return nil
		},
	}
	command.Flags().BoolVar(&pip, "pip", false, "leave nats-py out of the package: the Ray nodes have it or install it")
	return command
}
