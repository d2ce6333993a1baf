//go:build image

// In the image, dev is only a hint where to find it.

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// devCommand refuses to run. The image runs where a NATS server exists: the one
// that dev embeds would be a third of the image, in memory and for scanners, and
// unused.
func (p program) devCommand() *cobra.Command {
	return &cobra.Command{
		Use: "dev", Short: "Not in the image: run bin/ray-executor dev", Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("dev is not in the image: run `make build`, then bin/ray-executor dev")
		},
	}
}
