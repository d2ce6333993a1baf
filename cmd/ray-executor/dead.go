// ray-executor dead lists, shows and retries dead letters: deliberations that
// ended as failed after too many lost workers.

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
		Short: "List, show and retry dead letters",
		Long: `List, show and retry dead letters. A dead letter is a deliberation that ended as
failed because too many workers were lost while they ran it. It is stored with its
request until it is submitted again, or until an operator deletes it with
"nats object rm ` + journal.DeadLetterBucket + ` ID".`,
		Example: `  ray-executor dead list
  ray-executor dead show my-first-1
  ray-executor dead retry my-first-1`,
	}
	command.Args, command.RunE = cobra.ArbitraryArgs, subcommandNeeded
	command.AddCommand(p.deadListCommand(), p.deadShowCommand(), p.deadRetryCommand())
	return command
}

func (p program) deadListCommand() *cobra.Command {
	return p.listing(&cobra.Command{
		Use:     "list",
		Short:   "List the dead letters",
		Long:    `List the dead letters, with the reason of each end.`,
		Example: `  ray-executor dead list -o json`,
		Args:    cobra.NoArgs,
	}, func(ctx context.Context, journal *journal.Journal, _ []string, encode func(any) error) error {
		list, err := journal.ListDeadLetters(ctx)
		if err != nil {
			return err
		}
		if encode == nil {
			return writeDeadList(p.text(), list)
		}
		for _, one := range list {
			if err := encode(one); err != nil {
				return err
			}
		}
		return nil
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
		Use:     "show ID",
		Short:   "Print a dead letter's request and results",
		Long:    `Print the request of dead letter ID, its end, and the results of its agents.`,
		Example: `  ray-executor dead show my-first-1`,
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, journal *journal.Journal, args []string, encode func(any) error) error {
		dead, err := journal.ReadDeadLetter(ctx, args[0])
		if err != nil {
			return err
		}
		if encode == nil {
			return writeDead(p.text(), dead)
		}
		return encode(dead)
	})
}

func writeDead(w io.Writer, dead journal.DeadLetter) error {
	writeStatus(w, dead.Status)
	fmt.Fprintf(w, "\ndead letter of pool %s after %s, %d attempts\n", dead.Status.GetPool(), elapsed(dead.Status), dead.Status.GetAttempts())
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
		Short: "Submit dead letters again",
		Long: `Submit the request of dead letter ID again, as deliberation ID-retry, or that of
every dead letter with --all. A request that the server accepts leaves the list.
The command is safe to repeat: a second retry is the same deliberation.`,
		Example: `  ray-executor dead retry my-first-1
  ray-executor dead retry --all`,
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
		client, err := p.dial(server)
		if err != nil {
			return err
		}
		results := tally{out: p.text()}
		submit := func(ctx context.Context, request *pb.ExecuteDeliberationRequest) error {
			_, err := client.Submit(ctx, request)
			return explain(err)
		}
		if err := retryDeadLetters(ctx, journal, id, submit, func(id, retryID string, refused error) {
			results.add(id, "submitted as "+retryID, refused)
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
	submit func(context.Context, *pb.ExecuteDeliberationRequest) error, report func(id, retryID string, refused error),
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
		if id != "" && deliberation.AsError(err).Code == deliberation.NotFound {
			return err
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
