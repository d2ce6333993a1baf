// ray-executor stats prints the service's health, its statistics and its Ray
// clusters.

package main

import (
	"io"

	"github.com/spf13/cobra"
)

func (p program) statsCommand() *cobra.Command {
	c := p.newCaller(&cobra.Command{
		Use:     "stats",
		Short:   "Print health, statistics and Ray clusters",
		Long:    `Print the service's health, the counts of deliberations, and each Ray cluster.`,
		Example: `  ray-executor stats -o json`,
		Args:    cobra.NoArgs,
	})
	c.RunE = func(*cobra.Command, []string) error {
		client, err := c.dial()
		if err != nil {
			return err
		}
		stats, err := client.Stats(c.Context())
		if err != nil {
			return err
		}
		return c.show(stats, func(w io.Writer) { writeStats(w, stats) })
	}
	return c.Command
}
