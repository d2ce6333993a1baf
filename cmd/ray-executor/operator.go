// What the commands dead and relay share. Both list what needs an operator's
// decision, dead letters and undelivered ends, and try it again.

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"rayexecutor/journal"
)

// listing completes a command that reads the journal and prints what it finds,
// as text or by encode, which is nil for text.
func (p program) listing(command *cobra.Command, show func(ctx context.Context, journal *journal.Journal, args []string, encode func(any) error) error) *cobra.Command {
	var output format
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
		var encode func(any) error
		if output != "text" {
			encode = (&printer{w: p.out, format: output}).encode
		}
		return show(command.Context(), journal, args, encode)
	}
	addFormat(command, &output)
	return command
}

// retrying completes a command that tries again what is stored of deliberation
// ID. With --all it tries everything, and id is empty.
func retrying(command *cobra.Command, retry func(ctx context.Context, id string) error) *cobra.Command {
	var all bool
	command.Args = cobra.MaximumNArgs(1)
	command.RunE = func(command *cobra.Command, args []string) error {
		if all == (len(args) == 1) {
			return usagef("name either a deliberation's ID or --all")
		}
		return retry(command.Context(), append(args, "")[0])
	}
	command.Flags().BoolVar(&all, "all", false, "retry everything on the list")
	return command
}

// tally prints the outcome of each retry and counts them.
type tally struct {
	out               io.Writer
	accepted, refused int
	code              int // the exit code of the last refusal
}

func (t *tally) add(id, done string, refused error) {
	if refused != nil {
		t.refused++
		t.code = max(exitCode(refused), exitRefused) // a refusal without a code is one too
		fmt.Fprintf(t.out, "%s was refused and remains on the list: %v\n", id, refused)
		return
	}
	t.accepted++
	fmt.Fprintf(t.out, "%s %s\n", id, done)
}

// err is an error if any retry was refused, so that a script notices it.
func (t *tally) err() error {
	if t.refused > 0 {
		return &exitError{t.code, fmt.Errorf("%d of %d were refused and remain on the list: each line above has the reason", t.refused, t.refused+t.accepted)}
	}
	return nil
}
