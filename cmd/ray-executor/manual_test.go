package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// words splits a line as a shell does, as far as the pages need it.
var words = regexp.MustCompile(`"[^"]*"|\S+`)

// TestTheManual parses every command of docs/cli.md: its flags and arguments exist.
func TestTheManual(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		line, ours := strings.CutPrefix(strings.TrimSpace(line), "ray-executor ")
		if !ours {
			continue
		}
		found++
		var args []string
		for _, word := range words.FindAllString(line, -1) {
			args = append(args, strings.Trim(word, `"`))
		}
		command, rest, err := program{}.root().Find(args)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if err := command.ParseFlags(rest); err != nil {
			t.Errorf("%s: %v", line, err)
		} else if err := command.ValidateArgs(command.Flags().Args()); err != nil || command.RunE == nil || command.HasSubCommands() && command.Flags().NArg() > 0 {
			t.Errorf("%s: it is not a command (%v)", line, err)
		}
	}
	if found < 15 {
		t.Errorf("the page has %d commands", found)
	}
}

// TestFlagsNameTheirValues requires a word such as FILE for the value of a flag. A
// quoted command in the text would be taken for it.
func TestFlagsNameTheirValues(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`^[A-Z]+(\[?[=:][A-Z]+\]?)?$`)
	var check func(*cobra.Command)
	check = func(command *cobra.Command) {
		command.Flags().VisitAll(func(flag *pflag.Flag) {
			value, _ := pflag.UnquoteUsage(flag)
			if flag.Value.Type() == "bool" && value == "" {
				return
			}
			if !name.MatchString(value) || strings.Count(flag.Usage, "`") != 2 {
				t.Errorf("%s --%s has the value %q: %s", command.CommandPath(), flag.Name, value, flag.Usage)
			}
		})
		for _, sub := range command.Commands() {
			check(sub)
		}
	}
	check(program{}.root())
}

// TestFlagsComplete offers the values of --output and --state.
func TestFlagsComplete(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ args, offers string }{
		{"status --output", "yaml"}, {"doctor --output", "json"}, {"list --state", "cancelled"},
	} {
		printed, err := runProgram(t.Context(), nil, append(append([]string{"__complete"}, strings.Fields(test.args)...), "")...)
		if err != nil || !strings.Contains(printed, test.offers+"\n") {
			t.Errorf("%s: %v, offered %q", test.args, err, printed)
		}
	}
}
