package lambda_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"rayexecutor/config"
	"rayexecutor/tests/system"
)

// template is what of deploy/lambda/template.yaml must fit this code. What
// CloudFormation asks of it, cfn-lint checks in `make lint`.
type template struct {
	Parameters map[string]struct{ Default *string }
	Resources  struct {
		Function struct {
			Properties struct {
				Runtime     string
				Handler     string
				Timeout     int
				Environment struct {
					Variables map[string]any
				}
			}
		}
		Deliveries struct {
			Properties struct {
				FunctionResponseTypes []string
			}
		}
		Queue struct {
			Properties struct {
				VisibilityTimeout int
			}
		}
		Rule struct {
			Properties struct {
				EventPattern map[string][]string
			}
		}
	}
}

func readTemplate(t *testing.T) template {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(system.Root(), "deploy", "lambda", "template.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var (
		whole map[string]any
		read  template
	)
	if err := yaml.Unmarshal(data, &whole); err != nil {
		t.Fatal(err)
	}
	data, err = json.Marshal(whole) // whose reader needs no tags for these names
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	read := readTemplate(t)
	function := read.Resources.Function.Properties
	if function.Runtime != "provided.al2023" || function.Handler != "bootstrap" {
		t.Errorf("the function is %q in %q", function.Handler, function.Runtime)
	}
	if len(function.Environment.Variables) == 0 {
		t.Error("the function has no settings")
	}
	for name := range function.Environment.Variables {
		if !slices.Contains(config.Names(), name) {
			t.Errorf("%s is not a setting", name)
		}
	}
	// Without this SQS takes a batch with a failure in it for a success.
	if types := read.Resources.Deliveries.Properties.FunctionResponseTypes; !slices.Equal(types, []string{"ReportBatchItemFailures"}) {
		t.Errorf("the queue's response types are %v", types)
	}
	if visible := read.Resources.Queue.Properties.VisibilityTimeout; visible < 6*function.Timeout {
		t.Errorf("what is being worked on is hidden for %d s, below six times the function's %d s", visible, function.Timeout)
	}
	types := read.Resources.Rule.Properties.EventPattern["detail-type"]
	if len(types) == 0 {
		t.Error("the rule takes nothing")
	}
	for _, name := range types {
		if _, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(name)); err != nil {
			t.Errorf("the rule takes %s: %v", name, err)
		}
	}
}

var override = regexp.MustCompile(`\b([A-Z][A-Za-z]+)=`)

// TestDocumentedParameters holds the command of docs/lambda.md against the
// template: it names parameters that there are, and all without a default.
func TestDocumentedParameters(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile(filepath.Join(system.Root(), "docs", "lambda.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(docs), "--parameter-overrides")
	command, _, _ = strings.Cut(command, "```")
	parameters := readTemplate(t).Parameters
	given := map[string]bool{}
	for _, match := range override.FindAllStringSubmatch(command, -1) {
		given[match[1]] = true
		if _, there := parameters[match[1]]; !there {
			t.Errorf("%s is no parameter", match[1])
		}
	}
	for name, parameter := range parameters {
		if parameter.Default == nil && !given[name] {
			t.Errorf("%s has no default and is not given", name)
		}
	}
}
