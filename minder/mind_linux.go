package minder

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// name is the minder's argv[0], by which this program knows that it is one.
const name = "ray-executor: minder"

// init runs before main, so every program that imports the package can mind, a
// test's included.
func init() { //nolint:gochecknoinits // see above
	if len(os.Args) > 3 && os.Args[0] == name {
		os.Exit(mind(os.Args[1], os.Args[2], os.Args[3:]))
	}
}

// mind is the minder's whole life. It returns the program's exit code, 128 and
// the signal where one ended it.
func mind(patience, remove string, line []string) int {
	grace, err := time.ParseDuration(patience)
	if err != nil {
		return complain(err)
	}
	m := &minder{grace: grace}
	// The owner reads how the start went.
	status := os.NewFile(3, "status")
	if err := m.start(line); err != nil {
		fmt.Fprintln(status, err)
		return 127
	}
	fmt.Fprintln(status, "started", m.head.Pid)
	status.Close()
	m.loop()
	if m.orphaned && remove != "" {
		if err := os.RemoveAll(remove); err != nil { //nolint:gosec // the owner names it
			return complain(err)
		}
	}
	return m.code
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 127
}

// minder is the state of one. All of it is used by one goroutine, the reaping
// and the signalling above all.
type minder struct {
	grace    time.Duration
	head     *os.Process // the program
	ended    bool        // the program has
	code     int
	late     <-chan time.Time // when the family is killed; nil: not yet known
	killing  bool
	orphaned bool // the owner died

	died   chan os.Signal
	asked  chan os.Signal
	orders chan byte
}

// start makes this process a subreaper, then starts the program.
func (m *minder) start(line []string) error {
	m.died, m.asked, m.orders = make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan byte)
	signal.Notify(m.died, syscall.SIGCHLD)
	signal.Notify(m.asked, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4) // Program.Hold
	nothing, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer nothing.Close()
	// init runs on the main thread, which lives as long as the process: the
	// kernel takes the thread for the parent.
	m.head, err = os.StartProcess(line[0], line, &os.ProcAttr{ //nolint:gosec // the owner names it
		Env: os.Environ(), Files: []*os.File{nothing, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM},
	})
	go listen(m.orders)
	return err
}

// listen reads the owner's orders; 0 is the end of them.
func listen(orders chan<- byte) {
	for {
		order := make([]byte, 1)
		if _, err := os.Stdin.Read(order); err != nil {
			order[0] = 0
		}
		orders <- order[0]
		if order[0] == 0 {
			return
		}
	}
}

// loop ends when no child is left.
func (m *minder) loop() {
	stopped := false
	for m.reap() {
		if m.ended {
			m.hurry()
		}
		if m.killing {
			m.killChildren()
		}
		select {
		case <-m.died:
		case <-m.late:
			m.killing = true
		case <-m.asked:
			m.ask()
		case order := <-m.orders:
			stopped = stopped || order != 0
			m.orphaned = !stopped
			m.killing = m.killing || order == kill
			if order != kill {
				m.ask()
			}
		}
	}
}

// reap takes note of the children that have ended, and reports whether there are
// others.
func (m *minder) reap() bool {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return false // ECHILD
		case pid == 0:
			return true
		case pid == m.head.Pid && !m.ended:
			m.ended, m.code = true, status.ExitStatus()
			if status.Signaled() {
				m.code = 128 + int(status.Signal())
			}
		}
	}
}

// ask asks the program to end.
func (m *minder) ask() {
	if !m.ended {
		_ = m.head.Signal(syscall.SIGTERM) // not reaped, so the pid is its own
	}
	m.hurry()
}

// hurry gives the family its grace, once.
func (m *minder) hurry() {
	if m.late == nil {
		m.late = time.After(m.grace)
	}
}

// killChildren kills the children. Their children become ours, and are killed
// when SIGCHLD reports that their parent is dead.
func (m *minder) killChildren() {
	for _, pid := range childrenOf(os.Getpid()) {
		if child, err := os.FindProcess(pid); err == nil {
			_ = child.Kill() // it may have ended
			_ = child.Release()
		}
	}
}
