// The exit codes of the command. A script can tell from them what to do next.

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"rayexecutor/client"
	"rayexecutor/deliberation"
)

const (
	exitFailed      = 1 // it ran, and the outcome is bad
	exitUsage       = 2 // the command line or a setting is wrong
	exitNotFound    = 3 // the id does not exist
	exitDenied      = 4 // the caller may not do this
	exitRefused     = 5 // the server refuses the request
	exitUnavailable = 7 // a server cannot be reached; repeating may help
	exitSignal      = 128
)

// exitCodes is the part of the help that explains them.
const exitCodes = `Exit codes: 0 success, 1 the outcome is bad (a deliberation failed or was
cancelled, a check failed), 2 wrong usage or settings, 3 no such deliberation,
4 not allowed, 5 refused by the server, 7 a server cannot be reached,
130 interrupted by Ctrl-C (128 and the signal's number).`

// exitError is an error with its exit code.
type exitError struct {
	code int
	error
}

// Unwrap returns the error without the code.
func (e *exitError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode is the process's exit code for the error of a command.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if coded, ok := errors.AsType[*exitError](err); ok {
		return coded.code
	}
	if coded, ok := errors.AsType[*deliberation.Error](err); ok {
		return codeOf(coded.Code)
	}
	return exitFailed
}

func codeOf(code deliberation.Code) int {
	switch code {
	case deliberation.NotFound:
		return exitNotFound
	case client.Unauthenticated, client.PermissionDenied:
		return exitDenied
	case deliberation.Unavailable, client.DeadlineExceeded:
		return exitUnavailable
	case deliberation.Internal:
		return exitFailed
	default:
		return exitRefused
	}
}

// signalError is the cause of a context that a signal has ended.
type signalError struct{ os.Signal }

// Error implements error.
func (s signalError) Error() string { return "interrupted: " + s.String() }

// Is makes the cause count as the end of its context.
func (signalError) Is(target error) bool { return target == context.Canceled }

// interrupted is the error of a command that a signal stopped before its end.
func interrupted(ctx context.Context, err error) error {
	code := exitSignal + int(syscall.SIGINT)
	if stop, ok := errors.AsType[signalError](context.Cause(ctx)); ok {
		if number, ok := stop.Signal.(syscall.Signal); ok {
			code = exitSignal + int(number)
		}
	}
	if _, ok := errors.AsType[*followError](err); !ok {
		err = errors.New("interrupted")
	}
	return &exitError{code, err}
}

// markUsage gives exitUsage to what cobra finds wrong with a command line: the
// flags and the arguments of a command and its subcommands.
func markUsage(command *cobra.Command) {
	command.SetFlagErrorFunc(func(command *cobra.Command, err error) error {
		return usagef("%w: `%s --help` lists the flags", err, command.CommandPath())
	})
	if check := command.Args; check != nil {
		command.Args = func(command *cobra.Command, args []string) error {
			if err := check(command, args); err != nil {
				return usagef("%w: usage: %s", err, command.UseLine())
			}
			return nil
		}
	}
	for _, sub := range command.Commands() {
		markUsage(sub)
	}
}

// subcommandNeeded is the run function of a command that only has subcommands:
// it prints the help, and refuses the name of an unknown one.
func subcommandNeeded(command *cobra.Command, args []string) error {
	if len(args) == 0 {
		return command.Help()
	}
	hint := ""
	command.SuggestionsMinimumDistance = 2
	if similar := command.SuggestionsFor(args[0]); len(similar) > 0 {
		hint = fmt.Sprintf(" (similar: %s)", similar[0])
	}
	return usagef("%s has no command %q%s: `%s --help` lists the commands", command.CommandPath(), args[0], hint, command.CommandPath())
}
