package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rayexecutor/config"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/keeper/relay"
)

func (p program) relayCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "relay",
		Short: "Post ends to K_SINK as CloudEvents",
		Long: `Post each end of a deliberation to K_SINK, an HTTP endpoint that takes
CloudEvents, such as a Knative broker: at least once, with the same id each
time. What fails is tried again with growing pauses; what the sink refuses for
good, or has not taken within RELAY_PATIENCE, is kept until it is sent again.

serve and keeper do the same where K_SINK is set; any number of relays share
the ends.`,
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

var errNoSink = errors.New("K_SINK is not set: name the URL that ends are posted to")

// runRelay runs a relay until ctx ends.
func runRelay(ctx context.Context, settings config.Config, log *slog.Logger) error {
	journal, relay, err := newRelay(settings, log)
	if err != nil {
		return err
	}
	defer journal.Close()
	return relay.Run(ctx)
}

// newRelay returns a relay, and the journal to close after it.
func newRelay(settings config.Config, log *slog.Logger) (*journal.Journal, *relay.Relay, error) {
	if settings.Sink == "" {
		return nil, nil, errNoSink
	}
	sink, err := relay.NewSink(relay.SinkOptions{
		URL: settings.Sink, Extensions: settings.SinkExtensions(), CACerts: settings.SinkCACerts,
	})
	if err != nil {
		return nil, nil, err
	}
	journal, err := connect(settings, "relay", log)
	if err != nil {
		return nil, nil, err
	}
	options := relay.Options{Patience: settings.RelayPatience, Layout: layoutOf(settings)}
	return journal, relay.New(journal, sink, options, log), nil
}

func (p program) relayListCommand() *cobra.Command {
	return p.listing(&cobra.Command{
		Use: "list", Short: "List the ends that the sink did not take", Args: cobra.NoArgs,
	}, func(ctx context.Context, journal *journal.Journal, _ []string, asJSON bool) error {
		if asJSON {
			return listJSON(ctx, journal, p.out)
		}
		return listText(ctx, journal, p.out)
	})
}

// listJSON writes a line an end.
func listJSON(ctx context.Context, journal *journal.Journal, w io.Writer) error {
	encoder := json.NewEncoder(w)
	for end, err := range journal.ReadUndelivered(ctx, "") {
		if err != nil && end.ID == "" {
			return err
		}
		kind := ""
		if err == nil {
			kind = events.Type(end.Event)
		} else { // this one cannot be read
			end.Reason = err.Error()
		}
		if err := encoder.Encode(struct {
			DeliberationID string    `json:"deliberation_id"`
			Type           string    `json:"type"`
			EndedAt        time.Time `json:"ended_at"`
			GivenUpAt      time.Time `json:"given_up_at"`
			Attempts       uint64    `json:"attempts"`
			Reason         string    `json:"reason"`
		}{end.ID, kind, end.Time.UTC(), end.At.UTC(), end.Attempt, end.Reason}); err != nil {
			return fmt.Errorf("write the list: %w", err)
		}
	}
	return nil
}

func listText(ctx context.Context, journal *journal.Journal, w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DELIBERATION\tENDED\tGIVEN UP\tATTEMPTS\tREASON")
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
		Short: "Post to K_SINK again what it did not take",
		Long: `Post once to K_SINK what it did not take: the end of deliberation ID, or with
--all every one. What it takes now is kept no longer.`,
	}, func(ctx context.Context, id string) error {
		settings, log, err := p.loadWithDev()
		if err != nil {
			return err
		}
		return retryKept(ctx, settings, log, id, p.out)
	})
}

func retryKept(ctx context.Context, settings config.Config, log *slog.Logger, id string, w io.Writer) error {
	j, relay, err := newRelay(settings, log)
	if err != nil {
		return err
	}
	defer j.Close()
	if err := j.Reach(ctx); err != nil {
		return err
	}
	results := tally{out: w}
	if err := relay.Resend(ctx, id, func(end journal.Undelivered, refused error) {
		results.tell(end.ID, "sent", refused)
	}); err != nil {
		return err
	}
	if id != "" && results.taken+results.refused == 0 {
		return fmt.Errorf("deliberation %s has no undelivered end; see `ray-executor relay list`", id)
	}
	return results.err()
}
