//go:build !linux

package funccli

import "syscall"

// attributes give func a group of its own.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
