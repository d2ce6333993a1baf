//go:build !linux

package local

import (
	"context"
	"errors"
	"os"
)

// process is Ray's head process; here there is none.
type process struct {
	exited chan struct{}
	err    error
}

var errLinux = errors.New("a local Ray can be started on Linux only: start one yourself with `ray start --head`, " +
	"and set RAY_ADDRESS=http://127.0.0.1:8265")

func start(_, _ []string, _ string, _ *os.File) (*process, error) { return nil, errLinux }

func (*process) end(context.Context, string) error { return nil }

func (*process) kill(string) error { return nil }
