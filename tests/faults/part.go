package faults

import (
	"context"
	"fmt"
	"os"
	"time"

	"rayexecutor/tests/system"
)

// part is a process that is started again after it was stopped.
type part struct {
	log     string
	environ []string
	command []string
	running *system.Process
}

func (p *part) start() error {
	var err error
	p.running, err = system.Start(p.log, p.environ, p.command[0], p.command[1:]...)
	return err
}

// kill ends it by SIGKILL; killing what does not run is fine. One that has
// ended by itself is an error.
func (p *part) kill() error {
	if p.running == nil {
		return nil
	}
	err := p.running.Kill()
	p.running = nil
	if err != nil {
		return fmt.Errorf("%v: %w: %s", p.command, err, p.tail())
	}
	return nil
}

// stop ends it by SIGTERM.
func (p *part) stop() error {
	err := p.running.Terminate()
	p.running = nil
	return err
}

// tail is the end of its log.
func (p *part) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

// askFor bounds one question: it, or its answer, may have been lost with a
// server, and nobody would ever answer it.
const askFor = 10 * time.Second

// until asks again and again until it is so, or ctx ends.
func until(ctx context.Context, what string, ask func(ctx context.Context) error) error {
	once := func() error {
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		return ask(ctx)
	}
	for {
		err := once()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// sleep waits, and is false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
