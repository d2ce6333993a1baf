//go:build !linux && !darwin

// Stubs for the systems on which dev does not run.

package main

import (
	"math"
	"os"
)

// lock does nothing: dev runs on Linux.
func lock(*os.File, bool) error { return nil }

// freeDisk reports no limit.
func freeDisk(string) (int64, error) { return math.MaxInt64, nil }

// ours reports whether a file belongs to this user.
func ours(*os.File) bool { return true }
