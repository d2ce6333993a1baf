// What the client commands share: their flags, the connection to a function
// server, and the meaning of its errors.

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"rayexecutor/client"
)

// caller is a client command with --server and --output.
type caller struct {
	*cobra.Command
	program
	server string
	output format
}

func (p program) newCaller(command *cobra.Command) *caller {
	c := &caller{Command: command, program: p}
	c.Flags().StringVar(&c.server, "server", "", serverUsage)
	addFormat(command, &c.output)
	return c
}

// dial returns a client of the command's server.
func (c *caller) dial() (*client.Client, error) { return c.program.dial(c.server) }

// show writes a reply: with the function text, or in the format of --output.
func (c *caller) show(reply proto.Message, text func(io.Writer)) error {
	if c.output == "text" {
		text(c.text())
		return nil
	}
	return (&printer{w: c.out, format: c.output}).encode(reply)
}

// dial returns a client of the server that --server, RAY_EXECUTOR_SERVER or the
// running dev names.
func (p program) dial(flag string) (*client.Client, error) {
	return p.dialWith(flag, client.Options{Retries: retries})
}

// retries is how often a command repeats a call. A user who waits learns soon that
// there is no server.
const retries = 2

func (p program) dialWith(flag string, options client.Options) (*client.Client, error) {
	token := p.environment("RAY_EXECUTOR_TOKEN")
	options.Token = func() (string, error) { return token, nil }
	c, err := client.New(p.serverURL(flag), options)
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("--server: %w", err)}
	}
	return c, nil
}

// explain adds to the error of a call what a user of the command can do. Errors of
// the service say it themselves.
func explain(err error) error {
	failed, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err
	}
	code := exitCode(err)
	var advice string
	switch {
	case failed.Code == client.Unauthenticated, failed.Field == "server" && code == exitDenied:
		advice = "set RAY_EXECUTOR_TOKEN to a valid token"
	case failed.Field != "server":
		return err
	case code == exitUnavailable:
		advice = "start the server, or name another one with --server"
	default:
		advice = "check that --server names a ray-executor server"
	}
	return &exitError{code, fmt.Errorf("%s: %s", failed.Message, advice)}
}
