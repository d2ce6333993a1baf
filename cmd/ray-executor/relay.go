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
	"rayexecutor/keeper"
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
			settings, log, err := p.loadBeside()
			if err != nil {
				return err
			}
			return relay(command.Context(), settings, log)
		},
	}
	command.AddCommand(p.relayListCommand(), p.relayRetryCommand())
	return command
}

var errNoSink = errors.New("K_SINK is not set: name the URL that ends are posted to")

// relay runs a relay until ctx ends.
func relay(ctx context.Context, settings config.Config, log *slog.Logger) error {
	kept, relay, err := newRelay(settings, log)
	if err != nil {
		return err
	}
	defer kept.Close()
	return relay.Run(ctx)
}

// newRelay returns a relay, and the journal to close after it.
func newRelay(settings config.Config, log *slog.Logger) (*journal.Journal, *keeper.Relay, error) {
	if settings.Sink == "" {
		return nil, nil, errNoSink
	}
	sink, err := keeper.NewSink(keeper.SinkOptions{
		URL: settings.Sink, Extensions: settings.SinkExtensions(), CACerts: settings.SinkCACerts,
	})
	if err != nil {
		return nil, nil, err
	}
	kept, err := connect(settings, "relay", log)
	if err != nil {
		return nil, nil, err
	}
	options := keeper.RelayOptions{Patience: settings.RelayPatience, Layout: layoutOf(settings)}
	return kept, keeper.NewRelay(kept, sink, options, log), nil
}

func (p program) relayListCommand() *cobra.Command {
	return p.listing(&cobra.Command{
		Use: "list", Short: "List the ends that the sink did not take", Args: cobra.NoArgs,
	}, func(ctx context.Context, kept *journal.Journal, _ []string, asJSON bool) error {
		if asJSON {
			return listJSON(ctx, kept, p.out)
		}
		return listText(ctx, kept, p.out)
	})
}

// listJSON writes a line an end.
func listJSON(ctx context.Context, from *journal.Journal, w io.Writer) error {
	encoder := json.NewEncoder(w)
	for kept, err := range from.ReadUndelivered(ctx, "") {
		if err != nil && kept.ID == "" {
			return err
		}
		kind := ""
		if err == nil {
			kind = events.Type(kept.Event)
		} else { // this one cannot be read
			kept.Reason = err.Error()
		}
		if err := encoder.Encode(struct {
			DeliberationID string    `json:"deliberation_id"`
			Type           string    `json:"type"`
			EndedAt        time.Time `json:"ended_at"`
			GivenUpAt      time.Time `json:"given_up_at"`
			Attempts       uint64    `json:"attempts"`
			Reason         string    `json:"reason"`
		}{kept.ID, kind, kept.Time.UTC(), kept.At.UTC(), kept.Attempt, kept.Reason}); err != nil {
			return fmt.Errorf("write the list: %w", err)
		}
	}
	return nil
}

func listText(ctx context.Context, from *journal.Journal, w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DELIBERATION\tENDED\tGIVEN UP\tATTEMPTS\tREASON")
	for kept, err := range from.ReadUndelivered(ctx, "") {
		if err != nil && kept.ID == "" {
			return err
		}
		if err != nil {
			fmt.Fprintf(table, "%s\t\t\t\t%v\n", kept.ID, err)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", kept.ID,
			kept.Time.UTC().Format(time.RFC3339), kept.At.UTC().Format(time.RFC3339), kept.Attempt, kept.Reason)
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
		settings, log, err := p.loadBeside()
		if err != nil {
			return err
		}
		return retryKept(ctx, settings, log, id, p.out)
	})
}

func retryKept(ctx context.Context, settings config.Config, log *slog.Logger, id string, w io.Writer) error {
	from, relay, err := newRelay(settings, log)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := from.Reach(ctx); err != nil {
		return err
	}
	results := tally{out: w}
	if err := relay.Retry(ctx, id, func(kept journal.Undelivered, refused error) {
		results.tell(kept.ID, "sent", refused)
	}); err != nil {
		return err
	}
	if id != "" && results.taken+results.refused == 0 {
		return fmt.Errorf("nothing is kept of deliberation %s; see `ray-executor relay list`", id)
	}
	return results.err()
}
