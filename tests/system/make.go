package system

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"testing"
)

// Make is New for a test: Dir is a new folder, and where no model is named
// there is none. The system is closed when the test ends; one that failed logs
// the parts' logs.
func Make(tb testing.TB, options Options) *System {
	tb.Helper()
	dir, err := os.MkdirTemp("", "system")
	if err != nil {
		tb.Fatal(err)
	}
	options.Dir = dir
	options.ModelURL = cmp.Or(options.ModelURL, "http://127.0.0.1:9")
	options.Model = cmp.Or(options.Model, "none")
	sys, err := New(options)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := sys.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
		if tb.Failed() {
			tb.Log(sys.Logs())
		}
		os.RemoveAll(dir)
	})
	return sys
}

// StartJournal starts NATS and makes the journal on it.
func (s *System) StartJournal(ctx context.Context) error {
	if err := s.StartNATS(ctx); err != nil {
		return err
	}
	if printed, err := s.Run(ctx, "deploy", "--only", "journal"); err != nil {
		return fmt.Errorf("deploy the journal: %w\n%s", err, printed)
	}
	return nil
}

// Served makes a system whose journal and server are up, without a Ray.
func Served(tb testing.TB, options Options) *System {
	tb.Helper()
	sys := Make(tb, options)
	for _, start := range []func(context.Context) error{sys.StartJournal, sys.StartServer} {
		if err := start(tb.Context()); err != nil {
			tb.Fatal(err)
		}
	}
	return sys
}
