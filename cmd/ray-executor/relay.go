// ray-executor relay posts the ends of deliberations to K_SINK. relay list and
// relay retry concern the ends that the sink did not accept.

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rayexecutor/config"
	"rayexecutor/events"
	"rayexecutor/journal"
)

func (p program) relayCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "relay",
		Short: "Post ends to K_SINK as CloudEvents",
		Long: `Post each end of a deliberation to K_SINK, an HTTP endpoint that accepts
CloudEvents, such as a Knative broker: at least once, and with the same id each
time. A failed post is repeated with growing pauses. An end that the sink refuses,
or does not accept within RELAY_PATIENCE, is stored as an undelivered end until it
is sent again.

serve and keeper run a relay too if K_SINK is set. Any number of relays can run:
each end is posted by one of them.`,
		Example: `  K_SINK=http://broker-ingress.knative-eventing/ns/default ray-executor relay
  ray-executor relay list
  ray-executor relay retry --all`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadWithDev()
			if err != nil {
				return err
			}
			return runRelay(command.Context(), settings, log)
		},
	}
	command.AddCommand(p.relayListCommand(), p.relayRetryCommand())
	return command
}

// runRelay runs a relay until ctx ends.
func runRelay(ctx context.Context, settings config.Config, log *slog.Logger) error {
	journal, relay, err := connectRelay(settings, log)
	if err != nil {
		return err
	}
	defer journal.Close()
	return relay.Run(ctx)
}

func (p program) relayListCommand() *cobra.Command {
	return p.listing(&cobra.Command{
		Use:   "list",
		Short: "List the undelivered ends",
		Long: `List the undelivered ends: those that K_SINK refused, or did not accept within
RELAY_PATIENCE, with the sink's last answer.`,
		Example: `  ray-executor relay list -o json`,
		Args:    cobra.NoArgs,
	}, func(ctx context.Context, journal *journal.Journal, _ []string, encode func(any) error) error {
		if encode != nil {
			return printUndelivered(ctx, journal, encode)
		}
		return listUndelivered(ctx, journal, p.text())
	})
}

// printUndelivered encodes each end. An end that cannot be read has its error as the
// reason: retry can still name it.
func printUndelivered(ctx context.Context, journal *journal.Journal, encode func(any) error) error {
	for end, err := range journal.ReadUndelivered(ctx, "") {
		if err != nil && end.ID == "" {
			return err
		}
		kind := ""
		if err == nil {
			kind = events.Type(end.Event)
		} else {
			end.Reason = err.Error()
		}
		if err := encode(struct {
			DeliberationID string    `json:"deliberation_id"`
			Type           string    `json:"type"`
			EndedAt        time.Time `json:"ended_at"`
			GivenUpAt      time.Time `json:"given_up_at"`
			Attempts       uint64    `json:"attempts"`
			Reason         string    `json:"reason"`
		}{end.ID, kind, end.Time.UTC(), end.At.UTC(), end.Attempt, end.Reason}); err != nil {
			return err
		}
	}
	return nil
}

// listUndelivered prints a row for each end. One that cannot be read has a row with
// its error, so that it hides no other.
func listUndelivered(ctx context.Context, journal *journal.Journal, w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DELIBERATION\tENDED\tLAST ATTEMPT\tATTEMPTS\tREASON")
	for end, err := range journal.ReadUndelivered(ctx, "") {
		if err != nil && end.ID == "" {
			return err
		}
		if err != nil {
			fmt.Fprintf(table, "%s\t\t\t\t%v\n", end.ID, err)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", end.ID,
			end.Time.UTC().Format(time.RFC3339), end.At.UTC().Format(time.RFC3339), end.Attempt, end.Reason)
	}
	return table.Flush()
}

func (p program) relayRetryCommand() *cobra.Command {
	return retrying(&cobra.Command{
		Use:   "retry [ID]",
		Short: "Post undelivered ends to K_SINK again",
		Long: `Post the undelivered end of deliberation ID to K_SINK once more, or every
undelivered end with --all. An end that the sink accepts leaves the list.`,
		Example: `  ray-executor relay retry my-first-1
  ray-executor relay retry --all`,
	}, func(ctx context.Context, id string) error {
		settings, log, err := p.loadWithDev()
		if err != nil {
			return err
		}
		return retryUndelivered(ctx, settings, log, id, p.text())
	})
}

// retryUndelivered posts one undelivered end, or all if id is empty. Repeating it is
// safe: the event id is the same, and an end is removed only after the sink has
// accepted it.
func retryUndelivered(ctx context.Context, settings config.Config, log *slog.Logger, id string, w io.Writer) error {
	j, relay, err := connectRelay(settings, log)
	if err != nil {
		return err
	}
	defer j.Close()
	if err := j.Reach(ctx); err != nil {
		return err
	}
	results := tally{out: w}
	if err := relay.Resend(ctx, id, func(end journal.Undelivered, refused error) {
		results.add(end.ID, "sent", refused)
	}); err != nil {
		return err
	}
	if id != "" && results.accepted+results.refused == 0 {
		return &exitError{exitNotFound, fmt.Errorf("deliberation %s has no undelivered end: `ray-executor relay list` lists them", id)}
	}
	return results.err()
}
