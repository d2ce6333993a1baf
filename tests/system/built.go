package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// built remembers what Build made in this process.
var built sync.Map // target → func() error

// Build runs a target of the Makefile, once a process, so that no test passes
// against a stale program. Where nothing has changed it costs a second.
func Build(target string) error {
	build, _ := built.LoadOrStore(target, sync.OnceValue(func() error { return runMake(target) }))
	return build.(func() error)()
}

// runMake holds a lock: test packages may run at the same time.
func runMake(target string) error {
	lock, err := os.Open(filepath.Join(Root(), "Makefile"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	command := exec.Command("make", "--no-print-directory", "-s", target)
	command.Dir, command.Env = Root(), Newcomer(os.Environ())
	if printed, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("make %s: %w\n%s", target, err, printed)
	}
	return nil
}

// Newcomer is an environment without what our Makefile, or a make around it,
// puts there: what a reader of the README has.
func Newcomer(environ []string) []string {
	var rest []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "VENV", "RAY_VENV", "FUNC_CLI", "SEED":
		default:
			rest = append(rest, variable)
		}
	}
	return rest
}

// Binary is bin/ray-executor, built from the sources as they are.
func Binary() (string, error) {
	return filepath.Join(Root(), "bin", "ray-executor"), Build("build")
}
