package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"rayexecutor/config"
	"rayexecutor/journal"
)

// What waits for a person is listed and tried again in the same way: the relay's
// ends and the deliberations that were given up.

// listing is a command that reads the journal and prints it, as text or JSON.
func (p program) listing(command *cobra.Command, show func(ctx context.Context, journal *journal.Journal, args []string, json bool) error) *cobra.Command {
	var output string
	command.RunE = func(command *cobra.Command, args []string) error {
		settings, log, err := p.loadWithDev()
		if err != nil {
			return err
		}
		journal, err := reach(command.Context(), settings, command.Parent().Name(), log)
		if err != nil {
			return err
		}
		defer journal.Close()
		return show(command.Context(), journal, args, output == "json")
	}
	command.Flags().StringVarP(&output, "output", "o", "text", "`form` of the output: text or json")
	command.PreRunE = func(*cobra.Command, []string) error { return checkOutput(output) }
	return command
}

// reach is connect for a command that somebody waits for: it returns with a
// connection, or soon with why there is none.
func reach(ctx context.Context, settings config.Config, part string, log *slog.Logger) (*journal.Journal, error) {
	journal, err := connect(settings, part, log)
	if err != nil {
		return nil, err
	}
	if err := journal.Reach(ctx); err != nil {
		journal.Close()
		return nil, err
	}
	return journal, nil
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("--output=%s: must be text or json", output)
	}
	return nil
}

// retrying is a command that tries again what is kept of deliberation ID, or
// with --all everything: id is empty then.
func retrying(command *cobra.Command, retry func(ctx context.Context, id string) error) *cobra.Command {
	var all bool
	command.Args = cobra.MaximumNArgs(1)
	command.RunE = func(command *cobra.Command, args []string) error {
		if all == (len(args) == 1) {
			return errors.New("name a deliberation's ID, or --all")
		}
		return retry(command.Context(), append(args, "")[0])
	}
	command.Flags().BoolVar(&all, "all", false, "all that are on the list")
	return command
}

// tally tells what became of each; a failure is an error, for scripts.
type tally struct {
	out            io.Writer
	taken, refused int
}

func (t *tally) tell(id, done string, refused error) {
	if refused != nil {
		t.refused++
		fmt.Fprintf(t.out, "%s was refused and remains on the list: %v\n", id, refused)
		return
	}
	t.taken++
	fmt.Fprintf(t.out, "%s %s\n", id, done)
}

func (t *tally) err() error {
	if t.refused > 0 {
		return fmt.Errorf("%d of %d were refused and remain on the list: each line above has the reason", t.refused, t.refused+t.taken)
	}
	return nil
}
