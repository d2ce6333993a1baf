// ray-executor cancel ends a deliberation that has not ended yet.

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (p program) cancelCommand() *cobra.Command {
	var reason string
	c := p.newCaller(&cobra.Command{
		Use:   "cancel ID",
		Short: "Cancel a deliberation",
		Long: `Cancel a deliberation that is queued or running. A deliberation has one end: for
one that has ended already, the command prints the recorded end and changes
nothing.`,
		Example: `  ray-executor cancel my-first-1 --reason "changed my mind"`,
		Args:    cobra.ExactArgs(1),
	})
	c.Flags().StringVar(&reason, "reason", "", "`REASON` of the cancellation, published with the end")
	c.RunE = func(_ *cobra.Command, args []string) error {
		client, err := c.dial()
		if err != nil {
			return err
		}
		cancelled, err := client.Cancel(c.Context(), args[0], reason)
		if err != nil {
			return err
		}
		return c.show(cancelled, func(w io.Writer) {
			fmt.Fprintf(w, "%s %s: %s\n", cancelled.GetDeliberationId(), cancelled.GetStatus(), cancelled.GetMessage())
		})
	}
	return c.Command
}
