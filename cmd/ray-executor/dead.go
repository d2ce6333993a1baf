package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (p program) deadCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "dead",
		Short: "List, show and retry deliberations that were given up",
		Long: `A deliberation with which too many workers were lost is ended as failed, and kept
with its request for longer than the journal keeps it: until it is submitted
anew, or dropped by "nats object rm ` + journal.DeadLetterBucket + ` ID".`,
		Example: `  ray-executor dead list
  ray-executor dead show my-first-1
  ray-executor dead retry my-first-1`,
	}
	command.AddCommand(p.deadListCommand(), p.deadShowCommand(), p.deadRetryCommand())
	return command
}

func (p program) deadListCommand() *cobra.Command {
	return p.listing(&cobra.Command{
		Use: "list", Short: "List the deliberations that were given up", Args: cobra.NoArgs,
	}, func(ctx context.Context, journal *journal.Journal, _ []string, asJSON bool) error {
		list, err := journal.ListDeadLetters(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			encoder := json.NewEncoder(p.out)
			for _, one := range list {
				if err := encoder.Encode(one); err != nil {
					return fmt.Errorf("write the list: %w", err)
				}
			}
			return nil
		}
		return writeDeadList(p.out, list)
	})
}

func writeDeadList(w io.Writer, list []journal.DeadLetterSummary) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DELIBERATION\tTASK\tPOOL\tATTEMPTS\tENDED\tREASON")
	for _, one := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n",
			one.ID, one.TaskID, one.Pool, one.Attempts, one.Ended.UTC().Format(time.RFC3339), one.Reason)
	}
	return table.Flush()
}

func (p program) deadShowCommand() *cobra.Command {
	return p.listing(&cobra.Command{
		Use: "show ID", Short: "Show the request and the results of one that was given up", Args: cobra.ExactArgs(1),
	}, func(ctx context.Context, journal *journal.Journal, args []string, asJSON bool) error {
		dead, err := journal.ReadDeadLetter(ctx, args[0])
		if err != nil {
			return err
		}
		if !asJSON {
			return writeDead(p.out, dead)
		}
		if err := json.NewEncoder(p.out).Encode(dead); err != nil {
			return fmt.Errorf("show %s: %w", args[0], err)
		}
		return nil
	})
}

func writeDead(w io.Writer, dead journal.DeadLetter) error {
	writeStatus(w, dead.Status)
	fmt.Fprintf(w, "\ngiven up in pool %s%s, %d attempts\n", dead.Status.GetPool(), elapsed(dead.Status), dead.Status.GetAttempts())
	request, err := events.MarshalJSON(dead.Request)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, request, "", "  "); err != nil {
		return fmt.Errorf("show the request: %w", err)
	}
	_, err = fmt.Fprintf(w, "request %s\n", &indented)
	return err
}

func (p program) deadRetryCommand() *cobra.Command {
	var server string
	command := retrying(&cobra.Command{
		Use:   "retry [ID]",
		Short: "Submit anew what was given up",
		Long: `Submit anew, as ID-retry, the deliberation ID that was given up, or with --all
every one. What the server accepts is on the list no longer; retrying twice is
one deliberation.`,
	}, func(ctx context.Context, id string) error {
		settings, log, err := p.loadWithDev()
		if err != nil {
			return err
		}
		journal, err := reach(ctx, settings, "dead retry", log)
		if err != nil {
			return err
		}
		defer journal.Close()
		results := tally{out: p.out}
		submit := func(ctx context.Context, request *pb.ExecuteDeliberationRequest) error {
			return newClient(serverURL(server)).call(ctx, request, &pb.ExecuteDeliberationResponse{})
		}
		if err := retryDeadLetters(ctx, journal, id, submit, func(id, anew string, refused error) {
			results.tell(id, "submitted as "+anew, refused)
		}); err != nil {
			return err
		}
		return results.err()
	})
	command.Flags().StringVar(&server, "server", "", serverUsage)
	return command
}

// deadLetterStore is the part of the journal that a retry uses.
type deadLetterStore interface {
	ListDeadLetters(ctx context.Context) ([]journal.DeadLetterSummary, error)
	// ReadDeadLetter answers NotFound for an id that is no dead letter.
	ReadDeadLetter(ctx context.Context, id string) (journal.DeadLetter, error)
	DeleteDeadLetter(ctx context.Context, id string) error
}

// retryDeadLetters submits a dead letter again, or all where id is empty, and
// deletes those that were accepted. Each gets the id that RetryID derives, so a
// retry that stops in between can be repeated: the second submission is the same
// deliberation. It reports the outcome of each.
func retryDeadLetters(ctx context.Context, store deadLetterStore, id string,
	submit func(context.Context, *pb.ExecuteDeliberationRequest) error, report func(id, anew string, refused error),
) error {
	ids := []string{id}
	if id == "" {
		list, err := store.ListDeadLetters(ctx)
		if err != nil {
			return err
		}
		ids = nil
		for _, one := range list {
			ids = append(ids, one.ID)
		}
	}
	for _, one := range ids {
		err := retryDeadLetter(ctx, store, one, submit)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		report(one, deliberation.RetryID(one), err)
	}
	return nil
}

func retryDeadLetter(ctx context.Context, store deadLetterStore, id string, submit func(context.Context, *pb.ExecuteDeliberationRequest) error) error {
	dead, err := store.ReadDeadLetter(ctx, id)
	if err != nil {
		return err
	}
	dead.Request.DeliberationId = deliberation.RetryID(id)
	if err := submit(ctx, dead.Request); err != nil {
		return err
	}
	return store.DeleteDeadLetter(ctx, id)
}
