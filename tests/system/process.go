package system

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"rayexecutor/ray"
	"rayexecutor/ray/local"
)

// Process is a part that runs as one.
type Process struct {
	command *exec.Cmd
	ended   chan error
	paused  bool
}

// Command returns a command whose process the kernel kills when this one dies,
// even of SIGKILL: no test leaves one behind. The kernel does so already when the
// thread that started it ends, so no goroutine may end while locked to its thread.
func Command(environ []string, name string, args ...string) *exec.Cmd {
	command := exec.Command(name, args...)
	command.Env, command.SysProcAttr = environ, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}

// Start starts a process that writes to a log, and dies with this one.
func Start(logPath string, environ []string, name string, args ...string) (*Process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command := Command(environ, name, args...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{command: command, ended: make(chan error, 1)}
	go func() { p.ended <- command.Wait() }()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.command.Process.Pid }

// Terminate asks the process to end, and kills it after 30 s.
func (p *Process) Terminate() error {
	if p.paused {
		return p.Kill()
	}
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		return nil // it has ended
	}
	select {
	case err := <-p.ended:
		return err
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s did not end within 30 s of SIGTERM: %w", p.command.Path, p.Kill())
	}
}

// Pause stops the process where it is.
func (p *Process) Pause() error {
	p.paused = true
	return p.command.Process.Signal(syscall.SIGSTOP)
}

// Resume lets a paused process continue.
func (p *Process) Resume() error {
	p.paused = false
	return p.command.Process.Signal(syscall.SIGCONT)
}

// Kill ends the process at once.
func (p *Process) Kill() error {
	if err := p.command.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	return nil
}

// Output runs a command to its end.
func Output(ctx context.Context, environ []string, name string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, name, args...)
	command.Env = environ
	printed, err := command.CombinedOutput()
	return string(printed), err
}

// KillWorkers kills the worker's replicas, and says how many there were.
func (s *System) KillWorkers(ctx context.Context) (int, error) {
	pids, err := s.WorkerPIDs(ctx)
	if err != nil {
		return 0, err
	}
	for killed, pid := range pids {
		if err := s.ray.Signal(pid, syscall.SIGKILL); err != nil {
			return killed, err
		}
	}
	return len(pids), nil
}

// WorkerPIDs are the processes of the worker's replicas.
func (s *System) WorkerPIDs(ctx context.Context) ([]int, error) {
	replicas, err := Replicas(ctx, s.ray)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, replica := range replicas {
		pids = append(pids, replica.PID)
	}
	return pids, nil
}

// Replica is a worker replica as Serve reports it.
type Replica struct {
	ID     string `json:"replica_id"`
	PID    int    `json:"pid"`
	NodeIP string `json:"node_ip"`
	State  string `json:"state"`
}

// Replicas asks a Ray's dashboard for the worker's replicas, in any state.
func Replicas(ctx context.Context, head *local.Ray) ([]Replica, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, head.Address()+"/api/serve/applications/", http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := head.HTTP().Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var serve struct {
		Applications map[string]struct {
			Deployments map[string]struct {
				Replicas []Replica `json:"replicas"`
			} `json:"deployments"`
		} `json:"applications"`
	}
	if err := json.NewDecoder(response.Body).Decode(&serve); err != nil {
		return nil, err
	}
	return serve.Applications[ray.Application].Deployments["Worker"].Replicas, nil
}
