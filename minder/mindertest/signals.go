package mindertest

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// StartAttended starts a command as a terminal would: SIGHUP and SIGINT have
// their default effect on it. Where this process ignores them, as under nohup or
// in a background job of a shell without job control, a child would inherit that.
func StartAttended(command *exec.Cmd) error {
	// A signal that is handled here gets its default effect in a new program;
	// one that is ignored here stays ignored.
	handled := make(chan os.Signal, 1)
	signal.Notify(handled, syscall.SIGHUP, syscall.SIGINT)
	defer signal.Stop(handled)
	return command.Start()
}
