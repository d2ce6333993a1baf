package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is Ray's head process, `ray start --block`.
//
// It leads a session of its own, which all of Ray's processes stay in though
// they leave its process group, and all inherit a marker in their environment:
// by these two they are found. When this process dies, even by SIGKILL, the
// kernel sends the head process SIGTERM, whose handler stops the others; should
// that fail too, Ray has asked the kernel to kill the head's children with it,
// and the raylet's children end when their raylet is gone.
type process struct {
	pid int
	// exited is closed once the head has ended; err may be read then.
	exited chan struct{}
	err    error
}

// start runs a command line. The thread that starts a process counts as its
// parent in the kernel's eyes, so it is held until the process has ended.
func start(line, environment []string, dir string, output *os.File) (*process, error) {
	command := exec.Command(line[0], line[1:]...) //nolint:noctx // the operator's own venv; ended by end
	command.Env, command.Dir, command.Stdout, command.Stderr = environment, dir, output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	p := &process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		if err == nil {
			p.pid = command.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		p.err = command.Wait()
		if p.err == nil {
			p.err = errors.New("exit status 0")
		}
		close(p.exited)
	}()
	return p, <-started
}

// end asks the head to stop and kills what is left after the grace, or when ctx
// ends. Nothing that belongs to this Ray is left when it returns nil.
func (p *process) end(ctx context.Context, mark string) error {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	_ = syscall.Kill(p.pid, syscall.SIGTERM) // it may have ended by itself
	if p.gone(ctx, mark) {
		<-p.exited
		return nil
	}
	return p.kill(mark)
}

// kill ends all that belongs to this Ray, again and again: a process that is
// being killed may be starting another.
func (p *process) kill(mark string) error {
	last, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for last.Err() == nil {
		killAll(p.pid, mark)
		if len(members(p.pid, mark)) == 0 {
			<-p.exited
			return nil
		}
		time.Sleep(poll)
	}
	return fmt.Errorf("processes of a local Ray survive SIGKILL: %v", members(p.pid, mark))
}

// gone waits until no process is left; false: ctx ended first.
func (p *process) gone(ctx context.Context, mark string) bool {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for len(members(p.pid, mark)) > 0 {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	return true
}

// killAll kills all members.
func killAll(session int, mark string) {
	for _, pid := range members(session, mark) {
		// A handle, so that the pid cannot have become another's after the check.
		process, err := os.FindProcess(pid)
		if err != nil {
			continue
		}
		if member(pid, session, mark) {
			_ = process.Kill() // it may just have ended
		}
		_ = process.Release()
	}
}

// members are the processes of one Ray that have not ended.
func members(session int, mark string) []int {
	directories, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil // the pattern is good
	}
	var pids []int
	for _, directory := range directories {
		pid, err := strconv.Atoi(filepath.Base(directory))
		if err == nil && member(pid, session, mark) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// member tells whether a process is of the session, or carries the mark. Ray
// writes process titles over the place where the environment stands, so the
// mark alone would miss some.
func member(pid, session int, mark string) bool {
	state, sid := stat(pid)
	if state == "" || state == "Z" || state == "X" {
		return false
	}
	if sid == session {
		return true
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(environment, []byte(mark))
}

// stat reads a process's state and session; "" where there is none.
func stat(pid int) (state string, session int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	// pid (name) state ppid pgrp session …, and the name may hold anything.
	_, rest, _ := strings.Cut(string(data[bytes.LastIndexByte(data, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 4 {
		return "", 0
	}
	session, err = strconv.Atoi(fields[3])
	if err != nil {
		return "", 0
	}
	return fields[0], session
}
