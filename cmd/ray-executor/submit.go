// ray-executor submit sends a deliberation to a function server, from flags, a
// file, or both. With --wait it follows the deliberation until its end.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

func (p program) submitCommand() *cobra.Command {
	var (
		submitted submission
		wait      bool
		reconnect time.Duration
	)
	c := p.newCaller(&cobra.Command{
		Use:   "submit [DESCRIPTION]",
		Short: "Submit a deliberation",
		Long: `Submit a deliberation: a task, and the agents that propose a solution to it.

DESCRIPTION and the flags describe the task. --file names a file with a request in
JSON (docs/requests.md); DESCRIPTION and each flag on the command line replace its
field. The command prints the deliberation's id and state. A repeated submit with
the same --id is one deliberation.

With --wait the id goes to standard error at once, and the results to standard
output at the end. An interrupted wait does not stop the deliberation: watch ID
follows it again.`,
		Example: `  ray-executor submit "Name three risks of caching" --agent a --agent b=big-model --wait
  ray-executor submit --file request.json --id my-first-1 --timeout 60`,
		Args: cobra.MaximumNArgs(1),
	})
	submitted.addFlags(c.Flags())
	c.Flags().BoolVar(&wait, "wait", false, "follow the deliberation until its end, and print the proposals")
	addReconnect(c.Command, &reconnect)
	c.RunE = func(command *cobra.Command, args []string) error {
		built, err := submitted.build(command.InOrStdin(), args)
		if err != nil {
			return err
		}
		client, err := c.dial()
		if err != nil {
			return err
		}
		receipt, err := client.Submit(c.Context(), built)
		if err != nil {
			return err
		}
		if wait {
			// The id comes first: it survives an interrupted wait. It goes to standard
			// error, because standard output is for the result.
			fmt.Fprintf(c.errors, "%s %s\n", receipt.GetDeliberationId(), receipt.GetStatus())
			return c.watch(receipt.GetDeliberationId(), reconnect)
		}
		return c.show(receipt, func(w io.Writer) {
			fmt.Fprintf(w, "%s %s\n", receipt.GetDeliberationId(), receipt.GetStatus())
		})
	}
	return c.Command
}

// submission builds a request from a file and the flags.
type submission struct {
	flags  *pflag.FlagSet
	file   string
	fields []flagField
}

// flagField copies a flag's value to a request.
type flagField struct {
	flag string
	set  func(*request) error
}

// defaultAgents are the agents of a request that names none.
var defaultAgents = []string{"agent-1", "agent-2", "agent-3"}

const (
	defaultTask = "cli"
	defaultRole = "DEV"
)

// addFlags adds the flags. sampling.go has those that concern the model.
func (s *submission) addFlags(flags *pflag.FlagSet) {
	s.flags = flags
	flags.StringVarP(&s.file, "file", "f", "", "`FILE` with the request in JSON; - reads standard input")
	s.text("task-id", defaultTask, "`NAME` of the task, for the caller's own use", func(r *request, v string) { r.TaskId = v })
	s.text("role", defaultRole, "`ROLE` of the agents", func(r *request, v string) { r.Role = v })
	agents := flags.StringArray("agent", defaultAgents, "agent as `ID[=MODEL]`; repeat the flag for each agent")
	s.add("agent", func(r *request) error { r.Agents = parseAgents(*agents); return nil })
	s.text("vllm-url", "", "base `URL` of the model server (default: the server's VLLM_URL)", func(r *request, v string) { r.VllmUrl = v })
	s.text("model", "", "`MODEL` of all agents (default: the server's VLLM_MODEL)", func(r *request, v string) { r.VllmModel = v })
	s.text("id", "", "`ID` of the deliberation, which makes a repeated submit safe (default: a new id)", func(r *request, v string) { r.DeliberationId = v })
	s.text("pool", "", "`POOL` that runs the deliberation (default: default)", func(r *request, v string) { r.Pool = v })
	timeout := flags.Int32("timeout", 0, "`SECONDS` from the submit to the deadline (default: 300)")
	s.add("timeout", func(r *request) error { constraints(r).TimeoutSeconds = *timeout; return nil })
	labels := flags.StringArrayP("label", "l", nil, "`KEY=VALUE`, for list --label; repeat the flag for more")
	s.add("label", func(r *request) (err error) { r.Labels, err = parseLabels(*labels); return err })
	retries := flags.Int32("retries", deliberation.DefaultMaxRetries, "`RETRIES` of each agent's model call")
	s.add("retries", func(r *request) error { constraints(r).MaxRetries = retries; return nil })
	s.addSampling()
	s.addStrategy()
}

type request = pb.ExecuteDeliberationRequest

func (s *submission) add(flag string, set func(*request) error) {
	s.fields = append(s.fields, flagField{flag, set})
}

func (s *submission) text(flag, value, usage string, set func(*request, string)) {
	given := s.flags.String(flag, value, usage)
	s.add(flag, func(r *request) error { set(r, *given); return nil })
}

func constraints(r *request) *pb.TaskConstraints {
	if r.GetConstraints() == nil {
		r.Constraints = &pb.TaskConstraints{}
	}
	return r.GetConstraints()
}

// parseLabels returns labels by key.
func parseLabels(labels []string) (map[string]string, error) {
	parsed := make(map[string]string)
	for _, label := range labels {
		key, value, found := strings.Cut(label, "=")
		if !found || key == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", label)
		}
		if _, twice := parsed[key]; twice {
			return nil, fmt.Errorf("names %s twice", key)
		}
		parsed[key] = value
	}
	return parsed, nil
}

// build returns the request: that of --file or the default one, with the fields
// that the command line names. A flag that is not on the command line changes
// nothing, so that its default does not hide a field of the file.
//
// The flags apply in the order of addFlags: --agent before what concerns all
// agents.
func (s *submission) build(stdin io.Reader, args []string) (*request, error) {
	built := &request{TaskId: defaultTask, Role: defaultRole, Agents: parseAgents(defaultAgents)}
	if s.file != "" {
		var err error
		if built, err = readRequest(stdin, s.file); err != nil {
			return nil, err
		}
	}
	if len(args) == 1 {
		built.TaskDescription = args[0]
	}
	for _, field := range s.fields {
		if !s.flags.Changed(field.flag) {
			continue
		}
		if err := field.set(built); err != nil {
			return nil, usagef("--%s: %w", field.flag, err)
		}
	}
	return built, nil
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
func readRequest(stdin io.Reader, path string) (*request, error) {
	var text []byte
	var err error
	if path == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(path)
	}
	if err == nil {
		text, err = decodeText(text)
	}
	if err != nil {
		return nil, usagef("--file: %w", err)
	}
	var read request
	if err := events.UnmarshalJSON(text, &read); err != nil {
		return nil, usagef("--file: %w", err)
	}
	return &read, nil
}

// readText reads a file of text.
func readText(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	data, err = decodeText(data)
	return string(data), err
}

var errNotUTF8 = errors.New("the text is not UTF-8: save it as UTF-8")

// decodeText removes the byte order mark that editors of Windows write. It
// refuses text that is not UTF-8, such as UTF-16, with a clear error: a JSON
// parser would report a syntax error that no editor shows.
func decodeText(data []byte) ([]byte, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		return nil, errNotUTF8
	}
	return data, nil
}
