// ray-executor status prints one deliberation's state and its agents' results.

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
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
		status, err := c.status(args[0])
		if err != nil {
			return err
		}
		return c.show(status, func(w io.Writer) { writeStatus(w, status) })
	}
	return c.Command
}

// status reads a deliberation's status. The server reports an unknown id as a
// status, which is an error here.
func (c *caller) status(id string) (*pb.GetDeliberationStatusResponse, error) {
	status, err := c.client().GetDeliberationStatus(c.Context(), &pb.GetDeliberationStatusRequest{DeliberationId: id})
	if err == nil && deliberation.State(status.GetStatus()) == deliberation.Unknown {
		err = noSuch(id)
	}
	return status, err
}

// noSuch is the error for an id that the journal does not hold.
func noSuch(id string) error {
	return &exitError{exitNotFound, fmt.Errorf("deliberation %s does not exist: check the id; the journal stores ended ones for some days", id)}
}
