// ray-executor watch follows a deliberation until its end.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"rayexecutor/client"
	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (p program) watchCommand() *cobra.Command {
	var reconnect time.Duration
	c := p.newCaller(&cobra.Command{
		Use:   "watch ID",
		Short: "Follow a deliberation until its end",
		Long: `Follow a deliberation: print each change of its state and each agent's outcome,
then all results. A deliberation that failed or was cancelled is an error. If the
connection breaks, the command reconnects and continues.`,
		Example: `  ray-executor watch my-first-1`,
		Args:    cobra.ExactArgs(1),
	})
	addReconnect(c.Command, &reconnect)
	c.RunE = func(_ *cobra.Command, args []string) error {
		// A wrong server is an error at once: follow would try again.
		client, err := c.dial()
		if err != nil {
			return err
		}
		if _, err := client.Status(c.Context(), args[0]); err != nil {
			return err
		}
		return c.watch(args[0], reconnect)
	}
	return c.Command
}

func addReconnect(command *cobra.Command, reconnect *time.Duration) {
	command.Flags().DurationVar(reconnect, "reconnect", 2*time.Minute, "`DURATION` of the attempts to reach a server that was lost")
}

// watch prints a deliberation's changes, then its end. Any end but completed is
// an error, for scripts.
func (c *caller) watch(id string, reconnect time.Duration) error {
	progress := newProgress(c.text(), c.output == "text")
	status, err := c.follow(c.Context(), c.server, id, reconnect, progress)
	if err != nil {
		return &followError{id, c.server, explain(err)}
	}
	if err := c.show(status, func(w io.Writer) { writeStatus(w, status) }); err != nil {
		return err
	}
	if status.GetStatus() != string(deliberation.Completed) {
		return fmt.Errorf("deliberation %s is %s", id, status.GetStatus())
	}
	return nil
}

// follow shows a deliberation's events until its end, and returns its status. It
// tries to reach a lost server for the duration of reconnect.
func (p program) follow(ctx context.Context, server, id string, reconnect time.Duration, progress *progress) (*pb.GetDeliberationStatusResponse, error) {
	var last time.Time // of a failed try
	lost := func(err *client.Error) {
		if time.Since(last) > lostAgain {
			fmt.Fprintf(p.errors, "connection lost, trying again for %v: %v\n", reconnect, err)
		}
		last = time.Now()
	}
	if reconnect == 0 {
		reconnect = -1 // Options.Reconnect: at once
	}
	c, err := p.dialWith(server, client.Options{Reconnect: reconnect, OnRetry: lost})
	if err != nil {
		return nil, err
	}
	defer progress.tick()()
	return c.Follow(ctx, id, progress.show)
}

// lostAgain is longer than the client's pauses: a failed try after it belongs to
// another loss.
const lostAgain = 30 * time.Second

// followError is why a command stopped following a deliberation that has not
// ended. It says how to continue.
type followError struct {
	id, server string
	cause      error
}

// Error implements error.
func (e *followError) Error() string {
	resume := "ray-executor watch " + e.id
	if e.server != "" {
		resume += " --server " + e.server
	}
	cause := e.cause.Error()
	if errors.Is(e.cause, context.Canceled) {
		cause = "interrupted"
	}
	return fmt.Sprintf("%s: deliberation %s continues without this command: `%s` follows it again", cause, e.id, resume)
}

// Unwrap returns the cause.
func (e *followError) Unwrap() error { return e.cause }
