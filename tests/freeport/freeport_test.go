package freeport_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"rayexecutor/tests/freeport"
)

const taker = "FREEPORT_TAKER"

// TestMain is, with taker set, a process that takes 200 ports and holds them
// until its input ends.
func TestMain(m *testing.M) {
	if os.Getenv(taker) == "" {
		os.Exit(m.Run())
	}
	for range 200 {
		port, err := freeport.Take()
		if err != nil {
			fmt.Fprintln(os.Stdout, err)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stdout, port)
	}
	fmt.Fprintln(os.Stdout, "done")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// A test's ports come back with its end, so that many tests do not use them up.
func TestPortsComeBack(t *testing.T) {
	for range 10 {
		t.Run("", func(t *testing.T) {
			for range 500 {
				freeport.For(t)
			}
		})
	}
}

func TestProcessesAtOnceGetDifferentPorts(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	var outputs []*bufio.Scanner
	for range 4 {
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = append(os.Environ(), taker+"=1", "TMPDIR="+os.TempDir())
		input, err := command.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { input.Close(); _ = command.Wait() })
		outputs = append(outputs, bufio.NewScanner(output))
	}
	for _, output := range outputs {
		for output.Scan() && output.Text() != "done" {
			if seen[output.Text()] {
				t.Errorf("two processes have %s", output.Text())
			}
			seen[output.Text()] = true
		}
	}
	if len(seen) != 800 {
		t.Errorf("%d ports, not 800", len(seen))
	}
}
