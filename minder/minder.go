// Package minder runs a program and ends it together with every process that
// descends from it, and no other.
//
// Start starts this program a second time, as the minder of one family. The
// minder is a child subreaper (prctl(2)): all that the program starts stays its
// descendant, in any session or process group, and becomes its child when
// the parent between them ends. From this follow the three rules on signals:
//
//   - The minder signals its own children only. A child's pid stays taken until
//     its parent reaps it, and the minder reaps and signals in one goroutine, one
//     after the other. So no signal can reach a pid that was used again.
//   - Nobody else ends members of the family. The owner orders the minder, through
//     a pipe; where the program never started there is no minder and no signal.
//   - Nothing is left exactly when the minder has no child (wait4(2) says
//     ECHILD), and only then does the minder end.
//
// Names, command lines, sessions and variables prove nothing about a process:
// programs overwrite them, and a container's processes often share session 0.
// Parenthood is the kernel's own record.
//
// When the owner dies, by any signal, the kernel closes its pipe, and the
// minder ends the family. When the minder itself is killed, the kernel sends
// SIGTERM to the program.
package minder

import (
	"errors"
	"os"
	"time"
)

// ErrNotOurs is the error of Signal for a process that is not of the family.
var ErrNotOurs = errors.New("the process is not one that was started here")

// Program is what is run.
type Program struct {
	// Line is the program's path and its arguments.
	Line []string
	// Env is the whole environment, as `name=value`. Dir is the working
	// directory.
	Env []string
	Dir string
	// Output gets what the program prints. Nil: nobody does.
	Output *os.File
	// Grace is how long the program may take to end when it is asked to; then
	// the family is killed. It also bounds what a program that has ended leaves.
	Grace time.Duration
	// Hold stays open until nothing of the family is left. May be nil.
	Hold *os.File
	// Remove is a directory that is removed when this process dies without
	// stopping the family. May be empty.
	Remove string
}
