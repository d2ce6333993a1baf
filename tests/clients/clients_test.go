// Package clients calls the system by clients that are not ours: Python's
// grpcio with the stubs of the old service and of newer fleets, grpcurl, and
// Knative eventing's dispatcher. `make test-go` makes them.
package clients_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// A house is a system without a Ray: what a worker would write, worker writes.
type house struct {
	*system.System

	worker *journaltest.Worker
	// grpcPort is GRPC_PORT.
	grpcPort string
}

func setup(t *testing.T, settings ...string) *house {
	t.Helper()
	port := strconv.Itoa(freeport.For(t))
	sys := system.Served(t, system.Options{Settings: append([]string{"GRPC_PORT=" + port}, settings...)})
	return &house{sys, journaltest.NewWorker(t, sys.NATSURL()), port}
}

// tool is where a client is that make has made.
func tool(path ...string) string {
	return filepath.Join(append([]string{system.Root(), ".tools"}, path...)...)
}

// run runs a client and reads the JSON that it prints.
func run(t *testing.T, into any, input []byte, environ []string, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, name, args...)
	command.Env = append(os.Environ(), environ...)
	command.Stdin = strings.NewReader(string(input))
	printed, err := command.Output()
	if err != nil {
		var said []byte
		if exit, is := errors.AsType[*exec.ExitError](err); is {
			said = exit.Stderr
		}
		t.Fatalf("%s %v: %v: %s%s (`make test-go` makes the clients)", name, args, err, printed, said)
	}
	if text, plain := into.(*string); plain {
		*text = string(printed)
		return
	}
	if err := json.Unmarshal(printed, into); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, printed)
	}
}
