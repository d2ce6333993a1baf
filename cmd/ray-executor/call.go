package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// caller is a client command with the flags that all of them have.
type caller struct {
	*cobra.Command
	server string
	output string
	out    io.Writer
}

func (p program) newCaller(use, short string, args cobra.PositionalArgs) *caller {
	c := &caller{Command: &cobra.Command{Use: use, Short: short, Args: args}, out: p.out}
	c.Flags().StringVar(&c.server, "server", "", serverUsage)
	c.Flags().StringVarP(&c.output, "output", "o", "text", "`form` of the output: text or json")
	c.PreRunE = func(*cobra.Command, []string) error { return checkOutput(c.output) }
	return c
}

func (c *caller) call(request, reply proto.Message) error {
	return newClient(serverURL(c.server)).call(c.Context(), request, reply)
}

// show writes a reply as JSON where that was asked for, else by text.
func (c *caller) show(reply proto.Message, text func(io.Writer)) error {
	if c.output == "text" {
		text(c.out)
		return nil
	}
	line, err := events.MarshalJSON(reply)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.out, string(line))
	return err
}

func (p program) submitCommand() *cobra.Command {
	var (
		request     pb.ExecuteDeliberationRequest
		constraints pb.TaskConstraints
		retries     int32
		agents      []string
		file        string
		wait        bool
	)
	c := p.newCaller("submit [DESCRIPTION]", "Submit a deliberation", cobra.MaximumNArgs(1))
	c.Long = `Submit a deliberation: a task and the agents that deliberate on it.

The task stands in DESCRIPTION and the flags, or whole in a file in proto3
JSON. An agent is ID or ID=MODEL.`
	c.Example = `  ray-executor submit "Name three risks of caching" --agent a --agent b --wait
  ray-executor submit --file request.json`
	flags := c.Flags()
	flags.StringVarP(&file, "file", "f", "", "read the request from a `FILE` in JSON; - for standard input")
	flags.StringVar(&request.TaskId, "task-id", "cli", "the caller's `NAME` of the task")
	flags.StringVar(&request.Role, "role", "DEV", "the agents' `ROLE`")
	flags.StringArrayVar(&agents, "agent", []string{"agent-1", "agent-2", "agent-3"}, "an agent, `ID[=MODEL]`; repeat it")
	flags.StringVar(&request.VllmUrl, "vllm-url", "", "the model server's base `URL`; empty for the operator's")
	flags.StringVar(&request.VllmModel, "model", "", "the agents' `MODEL`; empty for the operator's")
	flags.StringVar(&request.DeliberationId, "id", "", "an `ID` of your own makes repeating safe")
	flags.StringVar(&request.Pool, "pool", "", "the `POOL` to wait in")
	flags.Int32Var(&constraints.TimeoutSeconds, "timeout", 0, "`SECONDS` until it must have ended; 0 for 300")
	flags.Int32Var(&retries, "retries", deliberation.DefaultMaxRetries, "`RETRIES` of each agent's call")
	applySampling := addSampling(flags)
	flags.BoolVar(&wait, "wait", false, "follow it until it has ended")
	c.RunE = func(command *cobra.Command, args []string) error {
		if flags.Changed("retries") {
			constraints.MaxRetries = &retries
		}
		if proto.Size(&constraints) > 0 {
			request.Constraints = &constraints
		}
		request.Agents = parseAgents(agents)
		if err := applySampling(&request); err != nil {
			return err
		}
		if len(args) == 1 {
			request.TaskDescription = args[0]
		}
		if file != "" {
			proto.Reset(&request)
			if err := readRequest(command.InOrStdin(), file, &request); err != nil {
				return err
			}
		}
		var receipt pb.ExecuteDeliberationResponse
		if err := c.call(&request, &receipt); err != nil {
			return err
		}
		if wait {
			return c.watch(receipt.GetDeliberationId())
		}
		return c.show(&receipt, func(w io.Writer) {
			fmt.Fprintf(w, "%s %s\n", receipt.GetDeliberationId(), receipt.GetStatus())
		})
	}
	return c.Command
}

func parseAgents(list []string) []*pb.Agent {
	var agents []*pb.Agent
	for _, one := range list {
		id, model, _ := strings.Cut(one, "=")
		agents = append(agents, &pb.Agent{Id: id, Model: model})
	}
	return agents
}

func readRequest(stdin io.Reader, path string, into proto.Message) error {
	read := func() ([]byte, error) { return os.ReadFile(path) }
	if path == "-" {
		read = func() ([]byte, error) { return io.ReadAll(stdin) }
	}
	data, err := read()
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	return events.UnmarshalJSON(data, into)
}

func (p program) statusCommand() *cobra.Command {
	c := p.newCaller("status ID", "Tell where a deliberation stands", cobra.ExactArgs(1))
	c.RunE = func(_ *cobra.Command, args []string) error {
		var status pb.GetDeliberationStatusResponse
		if err := c.call(&pb.GetDeliberationStatusRequest{DeliberationId: args[0]}, &status); err != nil {
			return err
		}
		return c.show(&status, func(w io.Writer) { writeStatus(w, &status) })
	}
	return c.Command
}

func (p program) cancelCommand() *cobra.Command {
	var reason string
	c := p.newCaller("cancel ID", "Cancel a deliberation", cobra.ExactArgs(1))
	c.Flags().StringVar(&reason, "reason", "", "the `REASON`, told to whoever listens")
	c.RunE = func(_ *cobra.Command, args []string) error {
		var cancelled pb.CancelDeliberationResponse
		if err := c.call(&pb.CancelDeliberationRequest{DeliberationId: args[0], Reason: reason}, &cancelled); err != nil {
			return err
		}
		return c.show(&cancelled, func(w io.Writer) {
			fmt.Fprintf(w, "%s %s: %s\n", cancelled.GetDeliberationId(), cancelled.GetStatus(), cancelled.GetMessage())
		})
	}
	return c.Command
}

func (p program) listCommand() *cobra.Command {
	var request pb.ListDeliberationsRequest
	c := p.newCaller("list", "List deliberations, newest first", cobra.NoArgs)
	c.Flags().StringVar(&request.State, "state", "", "only those in `STATE`: queued, running, completed, failed or cancelled")
	c.Flags().StringVar(&request.Pool, "pool", "", "only those of `POOL`")
	c.Flags().StringVar(&request.TaskId, "task-id", "", "only those of task `NAME`")
	c.Flags().Int32Var(&request.PageSize, "page-size", 0, "at most `N`; 0 for 50")
	c.Flags().StringVar(&request.PageToken, "page-token", "", "the `TOKEN` that the page before ended with")
	c.RunE = func(*cobra.Command, []string) error {
		var list pb.ListDeliberationsResponse
		if err := c.call(&request, &list); err != nil {
			return err
		}
		return c.show(&list, func(w io.Writer) { writeList(w, &list) })
	}
	return c.Command
}

func (p program) statsCommand() *cobra.Command {
	c := p.newCaller("stats", "Tell health, statistics and clusters", cobra.NoArgs)
	c.RunE = func(*cobra.Command, []string) error {
		var stats pb.GetStatusResponse
		if err := c.call(&pb.GetStatusRequest{IncludeStats: true}, &stats); err != nil {
			return err
		}
		return c.show(&stats, func(w io.Writer) { writeStats(w, &stats) })
	}
	return c.Command
}

func (p program) watchCommand() *cobra.Command {
	c := p.newCaller("watch ID", "Follow a deliberation until it has ended", cobra.ExactArgs(1))
	c.RunE = func(_ *cobra.Command, args []string) error { return c.watch(args[0]) }
	return c.Command
}

// watch tells a deliberation's state and agents as they change, then how it
// ended. One that failed or was cancelled is an error, for scripts.
func (c *caller) watch(id string) error {
	progress := newProgress(c.out, c.output == "text")
	status, err := follow(c.Context(), newClient(serverURL(c.server)), id, progress.show)
	if err != nil {
		return err
	}
	if err := c.show(status, func(w io.Writer) { writeStatus(w, status) }); err != nil {
		return err
	}
	if status.GetStatus() != string(deliberation.Completed) {
		return fmt.Errorf("deliberation %s is %s", id, status.GetStatus())
	}
	return nil
}

// follow asks for a deliberation's status until it has ended, and shows each.
func follow(ctx context.Context, client *client, id string, show func(*pb.GetDeliberationStatusResponse)) (*pb.GetDeliberationStatusResponse, error) {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		var status pb.GetDeliberationStatusResponse
		if err := client.call(ctx, &pb.GetDeliberationStatusRequest{DeliberationId: id}, &status); err != nil {
			return nil, err
		}
		show(&status)
		if state := deliberation.State(status.GetStatus()); state.Ended() || state == deliberation.Unknown {
			return &status, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}
