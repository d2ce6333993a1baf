// ray-executor status prints one deliberation's state and its agents' results.

package main

import (
	"io"

	"github.com/spf13/cobra"
)

func (p program) statusCommand() *cobra.Command {
	c := p.newCaller(&cobra.Command{
		Use:   "status ID",
		Short: "Print a deliberation's state and results",
		Long: `Print a deliberation's state (queued, running, completed, failed or cancelled)
and the result of each agent that has ended.`,
		Example: `  ray-executor status my-first-1
  ray-executor status my-first-1 -o json`,
		Args: cobra.ExactArgs(1),
	})
	c.RunE = func(_ *cobra.Command, args []string) error {
		client, err := c.dial()
		if err != nil {
			return err
		}
		status, err := client.Status(c.Context(), args[0])
		if err != nil {
			return err
		}
		return c.show(status, func(w io.Writer) { writeStatus(w, status) })
	}
	return c.Command
}
