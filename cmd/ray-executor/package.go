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
		Long: `Write the Ray worker's package to a file, the same that deploy uploads, for a
Serve config that others own, such as a RayService's: on every Ray node that
runs the worker, put it where the application's runtime_env.working_dir
(file:///…/FILE, which must end in .zip) says. deploy/base/ray.yaml does it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pack, err := worker.New(pip)
			if err != nil {
				return err
			}
			if err := os.WriteFile(args[0], pack.Zip, 0o644); err != nil { //nolint:gosec // Ray reads it as another user
				return fmt.Errorf("write the package: %w", err)
			}
			fmt.Fprintf(p.out, "%s %s\n", args[0], pack.Hash)
			return nil
		},
	}
	command.Flags().BoolVar(&pip, "pip", false, "leave nats-py out: the Ray nodes have it, or install it")
	return command
}
