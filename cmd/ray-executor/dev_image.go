//go:build image

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// devCommand says where dev is. The image runs where there is a NATS: the
// server that dev brings along would be a third of it, in its memory and in
// what scanners find, and never run.
func (p program) devCommand() *cobra.Command {
	return &cobra.Command{
		Use: "dev", Short: "Not in the image: run bin/ray-executor dev", Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("dev is not in the image: run bin/ray-executor dev, which make build makes")
		},
	}
}
