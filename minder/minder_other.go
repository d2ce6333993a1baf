//go:build !linux

package minder

import (
	"context"
	"errors"
	"os"
)

// ErrLinux is the error of Start on other systems: there is no subreaper.
var ErrLinux = errors.New("this needs Linux")

// Family is a program that runs; here there is none.
type Family struct{}

// Start fails with ErrLinux.
func Start(Program) (*Family, error) { return nil, ErrLinux }

// Exited is closed once nothing of the family is left.
func (*Family) Exited() <-chan struct{} { return nil }

// Pid is the program's.
func (*Family) Pid() int { return 0 }

// Err is how the program ended.
func (*Family) Err() error { return nil }

// Stop ends the family.
func (*Family) Stop(context.Context) error { return nil }

// Kill ends the family at once.
func (*Family) Kill() error { return nil }

// Signal sends a signal to a process of the family.
func (*Family) Signal(int, os.Signal) error { return ErrNotOurs }
