// Command gotest runs `go test` and prints at the end which tests were skipped,
// and why: a green run says little about what it did not run.
//
//	gotest [FLAG | PACKAGE …] [-- FLAG | PACKAGE … …]
//
// "--" separates the arguments of one `go test` from those of the next. All of
// them run, and the skipped tests of all are listed together.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action  string `json:"Action"`  //nolint:tagliatelle // as go test writes it
	Package string `json:"Package"` //nolint:tagliatelle // as go test writes it
	Test    string `json:"Test"`    //nolint:tagliatelle // as go test writes it
	Output  string `json:"Output"`  //nolint:tagliatelle // as go test writes it
}

// report collects what the tests print.
type report struct {
	outputs map[string][]string // of each test that still runs
	skipped []string
}

func main() {
	failed := false
	all := report{outputs: make(map[string][]string)}
	for _, args := range split(os.Args[1:]) {
		if err := all.run(args); err != nil {
			fmt.Fprintln(os.Stderr, "go test:", err)
			failed = true
		}
	}
	all.summarise()
	if failed {
		os.Exit(1)
	}
}

// split divides arguments at each "--".
func split(args []string) [][]string {
	for i, arg := range args {
		if arg == "--" {
			return append([][]string{args[:i]}, split(args[i+1:])...)
		}
	}
	return [][]string{args}
}

func (r *report) run(args []string) error {
	command := exec.CommandContext(context.Background(), "go", slices.Concat([]string{"test", "-json"}, args)...) //nolint:gosec // the Makefile names the arguments
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.add(line)
		}
		if err != nil {
			return command.Wait() // its error says more than the pipe's
		}
	}
}

// add prints what `go test` without -v would: what a failed test printed, and
// a line for each package.
func (r *report) add(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprint(os.Stdout, string(line)) // a build's errors
		return
	}
	test := e.Package + "." + e.Test
	switch e.Action {
	case "output", "build-output":
		if e.Test == "" {
			if e.Output != "PASS\n" {
				fmt.Fprint(os.Stdout, e.Output)
			}
			return
		}
		if !strings.HasPrefix(e.Output, "=== ") {
			r.outputs[test] = append(r.outputs[test], e.Output)
		}
	case "pass", "fail", "skip":
		printed := strings.Join(r.outputs[test], "")
		delete(r.outputs, test)
		switch {
		case e.Test == "":
			r.interrupted(e)
		case e.Action == "fail":
			fmt.Fprint(os.Stdout, printed)
		case e.Action == "skip":
			reason, _, _ := strings.Cut(printed, "--- SKIP")
			r.skipped = append(r.skipped, test+": "+strings.Join(strings.Fields(reason), " "))
		}
	}
}

// interrupted prints what the tests of a failed package printed that never
// ended: a panic or a timeout ends the process amid them.
func (r *report) interrupted(e event) {
	for test, lines := range r.outputs {
		if strings.HasPrefix(test, e.Package+".") {
			if e.Action == "fail" {
				fmt.Fprint(os.Stdout, strings.Join(lines, ""))
			}
			delete(r.outputs, test)
		}
	}
}

func (r *report) summarise() {
	fmt.Fprintf(os.Stdout, "\n%d tests were skipped\n", len(r.skipped))
	for _, one := range r.skipped {
		fmt.Fprintln(os.Stdout, "  "+one)
	}
}
