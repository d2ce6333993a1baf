package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
)

// parse returns a submission with its flags read from a command line.
func parse(t *testing.T, args ...string) *submission {
	t.Helper()
	parsed := &submission{}
	parsed.addFlags(pflag.NewFlagSet("submit", pflag.ContinueOnError))
	if err := parsed.flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return parsed
}

// build returns the request of a command line, without sending it.
func build(t *testing.T, args ...string) (*request, error) {
	t.Helper()
	parsed := parse(t, args...)
	return parsed.build(strings.NewReader(""), parsed.flags.Args())
}

// TestEveryFlagHasAField checks that no flag is read and then ignored.
func TestEveryFlagHasAField(t *testing.T) {
	t.Parallel()
	parsed := parse(t)
	parsed.flags.VisitAll(func(flag *pflag.Flag) {
		known := slices.ContainsFunc(parsed.fields, func(field flagField) bool { return field.flag == flag.Name })
		if !known && flag.Name != "file" {
			t.Errorf("--%s changes nothing", flag.Name)
		}
	})
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFlagsReplaceTheFilesFields checks that no flag and no DESCRIPTION beside a
// file is dropped, and that no flag's default replaces a field of the file.
func TestFlagsReplaceTheFilesFields(t *testing.T) {
	t.Parallel()
	file := write(t, "request.json", `{
		"task_id": "t", "task_description": "d", "role": "QA", "agents": [{"id": "x"}], "deliberation_id": "filed", "pool": "gpu",
		"constraints": {"timeout_seconds": 9, "max_retries": 1}, "sampling": {"temperature": 1, "seed": "3"}}`)
	filed, err := build(t, "--file", file)
	if err != nil {
		t.Fatal(err)
	}
	one := int32(1)
	heat, seed := 1.0, int64(3)
	want := &request{
		TaskId: "t", TaskDescription: "d", Role: "QA", Agents: []*pb.Agent{{Id: "x"}}, DeliberationId: "filed", Pool: "gpu",
		Constraints: &pb.TaskConstraints{TimeoutSeconds: 9, MaxRetries: &one}, Sampling: &pb.Sampling{Temperature: &heat, Seed: &seed},
	}
	if !proto.Equal(filed, want) {
		t.Errorf("without flags: %v", filed)
	}
	both, err := build(t, "other", "--file", file, "--id", "mine", "--task-id", "u", "--role", "DEV", "--agent", "a=big", "--pool", "default",
		"--timeout", "0", "--retries", "0", "--temperature", "0", "--system", "brief", "--vllm-url", "http://v", "--model", "m", "--max-tokens", "5", "-l", "team=a=b")
	if err != nil {
		t.Fatal(err)
	}
	none, cold, tokens := int32(0), 0.0, int32(5)
	want = &request{
		TaskId: "u", TaskDescription: "other", Role: "DEV", Agents: []*pb.Agent{{Id: "a", Model: "big", SystemPrompt: "brief"}},
		DeliberationId: "mine", Pool: "default", VllmUrl: "http://v", VllmModel: "m",
		Constraints: &pb.TaskConstraints{MaxRetries: &none}, Sampling: &pb.Sampling{Temperature: &cold, Seed: &seed, MaxTokens: &tokens},
		Labels: map[string]string{"team": "a=b"},
	}
	for _, wrong := range []string{"team", "=a", ""} {
		if _, err := build(t, "--label", wrong); err == nil {
			t.Errorf("the label %q was accepted", wrong)
		}
	}
	if !proto.Equal(both, want) {
		t.Errorf("with flags: %v", both)
	}
}

// TestEncodingsOfFiles reads files as Windows' editors write them.
func TestEncodingsOfFiles(t *testing.T) {
	t.Parallel()
	text := `{"task_id": "t", "task_description": "d"}`
	marked := write(t, "marked.json", "\ufeff"+text)
	if built, err := build(t, "--file", marked); err != nil || built.GetTaskId() != "t" {
		t.Errorf("a byte order mark: %v, %v", built, err)
	}
	if built, err := build(t, "--schema", write(t, "schema.json", "\ufeff{}")); err != nil || built.GetResponseFormat().GetJsonSchema() != "{}" {
		t.Errorf("a schema with a byte order mark: %v, %v", built, err)
	}
	var wide strings.Builder
	wide.WriteString("\xff\xfe")
	for _, unit := range utf16.Encode([]rune(text)) {
		wide.WriteByte(byte(unit))
		wide.WriteByte(byte(unit >> 8))
	}
	for _, flag := range []string{"--file", "--schema"} {
		if _, err := build(t, flag, write(t, "wide.json", wide.String())); err == nil || !strings.Contains(err.Error(), flag+": the text is not UTF-8") {
			t.Errorf("%s in UTF-16: %v", flag, err)
		}
	}
}
