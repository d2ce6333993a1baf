// ray-executor watch follows a deliberation until its end.

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (p program) watchCommand() *cobra.Command {
	c := p.newCaller(&cobra.Command{
		Use:   "watch ID",
		Short: "Follow a deliberation until its end",
		Long: `Follow a deliberation: print each change of its state and each agent's outcome,
then all results. A deliberation that failed or was cancelled is an error.`,
		Example: `  ray-executor watch my-first-1`,
		Args:    cobra.ExactArgs(1),
	})
	c.RunE = func(_ *cobra.Command, args []string) error { return c.watch(args[0]) }
	return c.Command
}

// watch prints a deliberation's changes, then its end. Any end but completed is
// an error, for scripts.
func (c *caller) watch(id string) error {
	progress := newProgress(c.out, c.output == "text")
	status, err := follow(c.Context(), newClient(serverURL(c.server)), id, progress.show)
	if err != nil {
		return err
	}
	if err := c.show(status, func(w io.Writer) { writeStatus(w, status) }); err != nil {
		return err
	}
	if status.GetStatus() != string(deliberation.Completed) {
		return fmt.Errorf("deliberation %s is %s", id, status.GetStatus())
	}
	return nil
}

// follow reads a deliberation's status until its end, and shows each one.
func follow(ctx context.Context, client *client, id string, show func(*pb.GetDeliberationStatusResponse)) (*pb.GetDeliberationStatusResponse, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		var status pb.GetDeliberationStatusResponse
		if err := client.call(ctx, &pb.GetDeliberationStatusRequest{DeliberationId: id}, &status); err != nil {
			return nil, err
		}
		show(&status)
		if state := deliberation.State(status.GetStatus()); state.Ended() || state == deliberation.Unknown {
			return &status, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}
