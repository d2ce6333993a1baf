// ray-executor watch follows a deliberation until its end.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// maxPause is the longest pause between two attempts to reach a server.
const maxPause = 5 * time.Second

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
		// A wrong server or id is an error at once: follow would try again.
		if _, err := c.status(args[0]); err != nil {
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
	progress := newProgress(c.out, c.output == "text")
	report := func(line string) { fmt.Fprintln(c.errors, line) }
	status, err := c.client().follow(c.Context(), id, reconnect, progress.show, report)
	if err != nil {
		return &followError{id, c.server, err}
	}
	if err := c.show(status, func(w io.Writer) { writeStatus(w, status) }); err != nil {
		return err
	}
	if status.GetStatus() != string(deliberation.Completed) {
		return fmt.Errorf("deliberation %s is %s", id, status.GetStatus())
	}
	return nil
}

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

// follow streams a deliberation's events to show until its end, and returns its
// status. show(nil) means that nothing has happened for a while.
//
// A stream may break: the server restarts, or a proxy cuts it. follow resumes
// after the last event, so that no event is lost or shown twice. After each
// stream it asks for the status: the answer says whether the deliberation has
// ended, and whether the server is back. Without any answer for the duration of
// reconnect it fails.
func (c *client) follow(ctx context.Context, id string, reconnect time.Duration, show func(*pb.WatchDeliberationResponse), report func(string)) (*pb.GetDeliberationStatusResponse, error) {
	watch := &pb.WatchDeliberationRequest{DeliberationId: id}
	pauses := backoff.NewExponentialBackOff()
	pauses.MaxInterval = maxPause
	var lost time.Time // when the server stopped answering
	for {
		before := watch.GetAfterSequence()
		err := c.stream(ctx, watch, show)
		if final(err) {
			return nil, err
		}
		status, err := c.GetDeliberationStatus(ctx, &pb.GetDeliberationStatusRequest{DeliberationId: id})
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil && deliberation.State(status.GetStatus()).Ended():
			return status, nil
		case err == nil && deliberation.State(status.GetStatus()) == deliberation.Unknown:
			return nil, noSuch(id)
		case err == nil:
			lost = time.Time{}
		case final(err):
			return nil, err
		case lost.IsZero():
			lost = time.Now()
			report(fmt.Sprintf("connection lost, trying again for %v: %v", reconnect, err))
		case time.Since(lost) > reconnect:
			return nil, err
		}
		if watch.GetAfterSequence() != before {
			pauses.Reset()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// final reports whether another attempt cannot help. A server without streams is
// not final: the status alone shows the end.
func final(err error) bool {
	code := exitCode(err)
	return code == exitNotFound || code == exitDenied
}

// stream shows the events after watch.AfterSequence, and moves it forward, until
// the deliberation has ended (nil) or the stream breaks.
func (c *client) stream(ctx context.Context, watch *pb.WatchDeliberationRequest, show func(*pb.WatchDeliberationResponse)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.WatchDeliberation(ctx, watch)
	if err != nil {
		return c.explain(err)
	}
	defer func() { _ = stream.Close() }() // the stream has ended, or is abandoned
	received := make(chan *pb.WatchDeliberationResponse)
	go func() {
		defer close(received)
		for stream.Receive() {
			select {
			case received <- stream.Msg():
			case <-ctx.Done():
				return
			}
		}
	}()
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		select {
		case event, ok := <-received:
			if !ok {
				return c.explain(stream.Err())
			}
			watch.AfterSequence = event.GetSequence()
			show(event)
		case <-ticker.C:
			show(nil)
		}
	}
}
