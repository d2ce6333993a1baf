package minder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// The orders of the owner to the minder. The end of the pipe without one
// means that the owner died.
const (
	stop = 's'
	kill = 'k'
)

// Family is a program that runs, and all that it has started.
type Family struct {
	minder *os.Process
	orders *os.File
	pid    int
	exited chan struct{}
	err    error
	grace  time.Duration
}

// Start starts a program and its minder. An error means that nothing runs.
func Start(program Program) (*Family, error) {
	listening, orders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	reports, reporter, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, listening.Close(), orders.Close())
	}
	defer reports.Close()
	// This program, even where its file was replaced meanwhile.
	command := exec.Command("/proc/self/exe") //nolint:noctx // ended by Stop and Kill
	command.Args = append([]string{name, program.Grace.String(), program.Remove}, program.Line...)
	command.Env, command.Dir, command.Stdin = program.Env, program.Dir, listening
	if program.Output != nil {
		command.Stdout, command.Stderr = program.Output, program.Output
	}
	command.ExtraFiles = []*os.File{reporter}
	if program.Hold != nil {
		command.ExtraFiles = append(command.ExtraFiles, program.Hold)
	}
	// Out of reach of the terminal's signals and of those to our group.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = command.Start()
	reporter.Close()
	listening.Close()
	if err != nil {
		return nil, errors.Join(err, orders.Close())
	}
	f := &Family{minder: command.Process, orders: orders, exited: make(chan struct{}), grace: program.Grace}
	go f.wait(command)
	word, err := io.ReadAll(reports)
	if err == nil {
		_, err = fmt.Sscanf(string(word), "started %d", &f.pid)
	}
	if err != nil {
		<-f.exited
		return nil, errors.New(strings.TrimSpace(string(word)))
	}
	return f, nil
}

// Pid is the program's, to look at: Signal takes it for as long as it is its own.
func (f *Family) Pid() int { return f.pid }

func (f *Family) wait(command *exec.Cmd) {
	f.err = command.Wait()
	if f.err == nil {
		f.err = errors.New("exit status 0")
	}
	f.orders.Close()
	close(f.exited)
}

// Exited is closed once the program has ended and nothing of the family is left.
func (f *Family) Exited() <-chan struct{} { return f.exited }

// Err is how the program ended, never nil. It may be called when Exited is closed.
func (f *Family) Err() error { return f.err }

// Stop asks the program to end by SIGTERM, and kills what is left after the
// grace, or when ctx ends. Nothing of the family is left when it returns nil.
func (f *Family) Stop(ctx context.Context) error {
	f.order(stop)
	select {
	case <-f.exited:
		return nil
	case <-ctx.Done():
	case <-time.After(f.grace + time.Second):
	}
	return f.Kill()
}

// Kill ends the whole family at once.
func (f *Family) Kill() error {
	f.order(kill)
	select {
	case <-f.exited:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("processes below process %d survive SIGKILL", f.minder.Pid)
	}
}

// order sends the minder an order. One that has ended needs none.
func (f *Family) order(order byte) { _, _ = f.orders.Write([]byte{order}) }

// Signal sends a signal to one process of the family, ErrNotOurs if it is not
// of it or no more. The handle is opened before the process is looked at, so the
// pid cannot become another's in between.
func (f *Family) Signal(pid int, signal os.Signal) error {
	process, err := open(pid)
	if err != nil {
		return err
	}
	defer func() { _ = process.Release() }()
	// Both live after the look, so it was these two that were looked at.
	if !descends(pid, f.minder.Pid) || !lives(process) || !lives(f.minder) {
		return fmt.Errorf("process %d: %w", pid, ErrNotOurs)
	}
	return process.Signal(signal)
}

// lives reports whether a process that was opened has not been reaped.
func lives(process *os.Process) bool { return process.Signal(syscall.Signal(0)) == nil }

// open opens a process by its pidfd. Without one a signal would go to whoever has
// the pid by then, so there is none.
func open(pid int) (*os.Process, error) {
	if pid <= 1 {
		return nil, fmt.Errorf("process %d: %w", pid, ErrNotOurs)
	}
	process, err := os.FindProcess(pid)
	if err != nil || !lives(process) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrNotOurs)
	}
	if err := process.WithHandle(func(uintptr) {}); err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, errors.Join(err, process.Release()))
	}
	return process, nil
}
