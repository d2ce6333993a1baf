// ray-executor submit sends a deliberation to a function server, from flags or
// from a file. With --wait it follows the deliberation until its end.

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (p program) submitCommand() *cobra.Command {
	var (
		request submission
		wait    bool
	)
	c := p.newCaller(&cobra.Command{
		Use:   "submit [DESCRIPTION]",
		Short: "Submit a deliberation",
		Long: `Submit a deliberation: a task, and the agents that propose a solution to it.

DESCRIPTION and the flags describe the task. Or --file names a file with the
whole request in JSON (docs/requests.md). The command prints the
deliberation's id and state. A repeated submit with the same --id is one
deliberation.`,
		Example: `  ray-executor submit "Name three risks of caching" --agent a --agent b=big-model --wait
  ray-executor submit --file request.json`,
		Args: cobra.MaximumNArgs(1),
	})
	request.addFlags(c.Flags())
	c.Flags().BoolVar(&wait, "wait", false, "follow the deliberation until its end, and print the proposals")
	c.RunE = func(command *cobra.Command, args []string) error {
		built, err := request.build(command, args)
		if err != nil {
			return err
		}
		return c.submit(built, wait)
	}
	return c.Command
}

// submit sends a request and prints the receipt, or follows the deliberation.
func (c *caller) submit(request *pb.ExecuteDeliberationRequest, wait bool) error {
	var receipt pb.ExecuteDeliberationResponse
	if err := c.call(request, &receipt); err != nil {
		return err
	}
	if wait {
		return c.watch(receipt.GetDeliberationId())
	}
	return c.show(&receipt, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s\n", receipt.GetDeliberationId(), receipt.GetStatus())
	})
}

// submission is the request that the flags describe. sampling.go has the flags
// that concern the model.
type submission struct {
	request       pb.ExecuteDeliberationRequest
	constraints   pb.TaskConstraints
	retries       int32
	agents        []string
	file          string
	applySampling func(*pb.ExecuteDeliberationRequest) error
}

func (s *submission) addFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&s.file, "file", "f", "", "`FILE` with the request in JSON; - reads standard input")
	flags.StringVar(&s.request.TaskId, "task-id", "cli", "`NAME` of the task, for the caller's own use")
	flags.StringVar(&s.request.Role, "role", "DEV", "`ROLE` of the agents")
	flags.StringArrayVar(&s.agents, "agent", []string{"agent-1", "agent-2", "agent-3"}, "agent as `ID[=MODEL]`; repeat the flag for each agent")
	flags.StringVar(&s.request.VllmUrl, "vllm-url", "", "base `URL` of the model server (default: the server's VLLM_URL)")
	flags.StringVar(&s.request.VllmModel, "model", "", "`MODEL` of all agents (default: the server's VLLM_MODEL)")
	flags.StringVar(&s.request.DeliberationId, "id", "", "`ID` of the deliberation, which makes a repeated submit safe (default: a new id)")
	flags.StringVar(&s.request.Pool, "pool", "", "`POOL` that runs the deliberation (default: default)")
	flags.Int32Var(&s.constraints.TimeoutSeconds, "timeout", 0, "`SECONDS` from the submit to the deadline (default: 300)")
	flags.Int32Var(&s.retries, "retries", deliberation.DefaultMaxRetries, "`RETRIES` of each agent's model call")
	s.applySampling = addSampling(flags)
}

// build returns the request of the command line, or that of --file.
func (s *submission) build(command *cobra.Command, args []string) (*pb.ExecuteDeliberationRequest, error) {
	if s.file != "" {
		return readRequest(command.InOrStdin(), s.file)
	}
	// 0 retries is a valid wish, so a flag that is not given leaves the field unset.
	if command.Flags().Changed("retries") {
		s.constraints.MaxRetries = &s.retries
	}
	if proto.Size(&s.constraints) > 0 {
		s.request.Constraints = &s.constraints
	}
	s.request.Agents = parseAgents(s.agents)
	if len(args) == 1 {
		s.request.TaskDescription = args[0]
	}
	if err := s.applySampling(&s.request); err != nil {
		return nil, err
	}
	return &s.request, nil
}

// parseAgents reads a list of ID or ID=MODEL. The server checks both parts.
func parseAgents(list []string) []*pb.Agent {
	var agents []*pb.Agent
	for _, one := range list {
		id, model, _ := strings.Cut(one, "=")
		agents = append(agents, &pb.Agent{Id: id, Model: model})
	}
	return agents
}

// readRequest reads a request in proto3 JSON. An unknown field is an error: a
// misspelt field would otherwise be ignored.
func readRequest(stdin io.Reader, path string) (*pb.ExecuteDeliberationRequest, error) {
	read := func() ([]byte, error) { return os.ReadFile(path) }
	if path == "-" {
		read = func() ([]byte, error) { return io.ReadAll(stdin) }
	}
	data, err := read()
	if err != nil {
		return nil, fmt.Errorf("--file: %w", err)
	}
	var request pb.ExecuteDeliberationRequest
	if err := events.UnmarshalJSON(data, &request); err != nil {
		return nil, err
	}
	return &request, nil
}
