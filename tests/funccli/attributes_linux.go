package funccli

import "syscall"

// attributes give func a group of its own; it ends with the test binary, even
// one that is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
