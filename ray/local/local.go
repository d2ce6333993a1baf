// Package local starts a Ray of one's own on this machine, for `dev` and for
// tests, and stops it again without leaving a process behind.
//
// It listens on 127.0.0.1 alone, on ports of its own, and keeps its files in a
// directory of its own, so any number can run beside each other. Should this
// process die without stopping it, the kernel ends Ray's head process, whose
// handler ends the rest (see process_linux.go).
package local

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"rayexecutor/ray"
)

const (
	// marker is the variable by which every process of one Ray is known.
	marker = "RAY_EXECUTOR_LOCAL"
	// maxDir is the longest directory below which Ray's sockets still fit into
	// the 107 characters of a Unix socket's path.
	maxDir = 43
	// defaultObjectStore is in bytes; deliberations use none of it, and 75 MiB
	// is Ray's least.
	defaultObjectStore = 100 << 20
	// poll is how often a starting or stopping Ray is looked at.
	poll = 100 * time.Millisecond
	// grace is how long Ray may take to stop by itself.
	grace = 6 * time.Second
)

// Options says how Ray is started. Venv is needed.
type Options struct {
	// Venv is a Python environment with ray[default,serve].
	Venv string
	// Port and DashboardPort are the head's. 0: free ones are found.
	Port, DashboardPort int
	// NumCPUs is how many CPUs the node hands out. 0: as many as the machine
	// has; -1: none.
	NumCPUs int
	// ObjectStore is the object store's size in bytes. 0: 100 MiB.
	ObjectStore int
	// Env are variables of all of Ray's processes, the workers included, as
	// `name=value`, beside this process's own. Variables of this process whose
	// names begin with RAY_ are not handed on: they speak of another Ray.
	Env []string
	// Dir is where Ray's directory is made, a short path. Empty: /tmp.
	Dir string
	// LogDir is where Stop leaves Ray's logs. Empty: they are removed.
	LogDir string
	// Log is told how starting and stopping goes. Nil: nobody.
	Log *slog.Logger

	// IP is the node's own loopback address, such as 127.0.0.2, where the Ray
	// is to have several nodes: their addresses must differ. Empty: the Ray has
	// one node, and takes no other.
	IP string
	// Head is the head whose Ray this node joins. Nil: this is a head.
	Head *Ray
}

// Ray is a running local Ray. Make it with Start.
type Ray struct {
	id      string
	ip      string
	head    *Ray // nil: this one is
	dir     string
	logDir  string
	ports   *ports
	log     *slog.Logger
	process *process
	output  *os.File

	stop    sync.Once
	stopped error
}

// Start starts Ray and returns once its dashboard answers and its node is
// alive, some seconds later. ctx bounds the start alone. The error tells what
// Ray printed last.
func Start(ctx context.Context, options Options) (*Ray, error) {
	if _, err := os.Stat(command(options.Venv)); err != nil {
		return nil, fmt.Errorf("no Ray in %s: %w: run `make run` or `make test`, which install it", options.Venv, err)
	}
	r, err := prepare(options)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := r.launch(ctx, options); err != nil {
		// Not ctx: it may be over, and nothing must be left behind.
		return nil, errors.Join(err, r.Stop(context.WithoutCancel(ctx)))
	}
	r.log.Info("local Ray is up", "dashboard", r.Address(), "after", time.Since(begun).Round(poll))
	return r, nil
}

// Address is the dashboard's URL.
func (r *Ray) Address() string {
	if r.head != nil {
		return r.head.Address()
	}
	return "http://127.0.0.1:" + strconv.Itoa(r.ports.dashboard())
}

// Ports are the head's ports of the GCS and the dashboard, for a Ray that is to
// be where this one was.
func (r *Ray) Ports() (gcs, dashboard int) { return r.ports.gcs, r.ports.dashboard() }

// IP is the node's address.
func (r *Ray) IP() string { return r.ip }

// Kill ends every process of this node at once, as a machine that is lost; Stop
// then clears away what it left.
func (r *Ray) Kill() error { return r.process.kill(marker + "=" + r.id) }

// Logs is the directory with Ray's logs, until Stop.
func (r *Ray) Logs() string { return filepath.Join(r.dir, "session_latest", "logs") }

// Exited is closed when Ray's head process has ended, by Stop or by itself.
func (r *Ray) Exited() <-chan struct{} { return r.process.exited }

// Stop ends every process of this Ray and removes its directory. It may be
// called more than once. When ctx ends Ray is no longer asked but killed.
func (r *Ray) Stop(ctx context.Context) error {
	r.stop.Do(func() { r.stopped = r.shutdown(ctx) })
	return r.stopped
}

// prepare claims ports and makes the directory.
func prepare(options Options) (*Ray, error) {
	log := options.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	parent := options.Dir
	if parent == "" {
		parent = "/tmp"
	}
	ports, err := claim(options.Port, options.DashboardPort)
	if err != nil {
		return nil, err
	}
	dir, err := directory(parent)
	if err != nil {
		return nil, errors.Join(err, ports.release())
	}
	return &Ray{
		id: uuid.NewString(), ip: cmp.Or(options.IP, "127.0.0.1"), head: options.Head,
		dir: dir, logDir: options.LogDir, ports: ports, log: log,
	}, nil
}

func directory(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "ray-local-")
	if err != nil {
		return "", fmt.Errorf("directory for a local Ray: %w", err)
	}
	if len(dir) > maxDir {
		return "", errors.Join(
			fmt.Errorf("directory for a local Ray: %s is too long for Ray's sockets: name one below %d characters", dir, maxDir),
			os.Remove(dir))
	}
	return dir, nil
}

// launch starts the head process and waits until it serves.
func (r *Ray) launch(ctx context.Context, options Options) error {
	output, err := os.Create(filepath.Join(r.dir, "ray-start.log"))
	if err != nil {
		return err
	}
	r.output = output
	line := []string{python(options.Venv), command(options.Venv)}
	r.process, err = start(append(line, r.arguments(options)...), r.environment(options), r.dir, output)
	if err != nil {
		return fmt.Errorf("start Ray: %w", err)
	}
	if err := r.ready(ctx); err != nil {
		return fmt.Errorf("local Ray did not start: %w: %s", err, r.tail())
	}
	return nil
}

// arguments are those of `ray start`. Left out is what costs a start time and
// serves nobody here: the log monitor. The autoscaler's monitor stays: it
// reports the CPUs in use.
func (r *Ray) arguments(options Options) []string {
	store := options.ObjectStore
	if store == 0 {
		store = defaultObjectStore
	}
	arguments := []string{
		"start", "--block", "--disable-usage-stats", "--include-log-monitor=false",
		"--node-ip-address=" + r.ip, "--object-store-memory=" + strconv.Itoa(store),
	}
	if r.head == nil {
		arguments = append(arguments, "--head", "--dashboard-host=127.0.0.1", "--temp-dir="+r.dir)
		arguments = append(arguments, r.ports.ofHead()...)
	} else {
		arguments = append(arguments, "--address="+net.JoinHostPort(r.head.ip, strconv.Itoa(r.head.ports.gcs)))
	}
	if options.NumCPUs != 0 {
		arguments = append(arguments, "--num-cpus="+strconv.Itoa(max(0, options.NumCPUs)))
	}
	return append(arguments, r.ports.arguments()...)
}

// environment is this process's own, without another Ray's variables.
func (r *Ray) environment(options Options) []string {
	environment := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "RAY_") || strings.HasPrefix(variable, "PYTHONHOME=") ||
			strings.HasPrefix(variable, "VIRTUAL_ENV=") || strings.HasPrefix(variable, "PATH=")
	})
	if options.IP == "" {
		// Ray's word for "one node, on the loopback": else it takes 127.0.0.1
		// for the machine's outer address and listens on all of them.
		environment = append(environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0")
	}
	return append(append(environment,
		"VIRTUAL_ENV="+options.Venv,
		"PATH="+filepath.Join(options.Venv, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
	), append(slices.Clone(options.Env), marker+"="+r.id)...)
}

// ready waits until the dashboard answers and the node is alive.
func (r *Ray) ready(ctx context.Context) error {
	client, err := ray.NewClient(ray.Cluster{Name: "local", Address: r.Address()})
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, r.look(ctx, client) },
		backoff.WithBackOff(backoff.NewConstantBackOff(poll)), backoff.WithMaxElapsedTime(0))
	return err
}

// look is nil when Ray is ready; its error is permanent when it never will be.
func (r *Ray) look(ctx context.Context, client *ray.Client) error {
	select {
	case <-r.process.exited:
		return backoff.Permanent(fmt.Errorf("its head process ended: %w", r.process.err))
	default:
	}
	if r.head != nil {
		return r.joined()
	}
	nodes, err := client.Nodes(ctx)
	if err != nil {
		return err
	}
	if nodes.Alive == 0 {
		return errors.New("its node is not alive yet")
	}
	return nil
}

// joined is nil once `ray start` has said that the node runs.
func (r *Ray) joined() error {
	printed, err := os.ReadFile(r.output.Name())
	if err == nil && !bytes.Contains(printed, []byte("Ray runtime started")) {
		err = errors.New("it has not joined yet")
	}
	return err
}

// shutdown asks Ray to stop, then kills what is left.
func (r *Ray) shutdown(ctx context.Context) error {
	var failed error
	if r.process != nil {
		failed = r.process.end(ctx, marker+"="+r.id)
	}
	if r.output != nil {
		failed = errors.Join(failed, r.output.Close())
	}
	if r.logDir != "" {
		failed = errors.Join(failed, r.keepLogs())
	}
	failed = errors.Join(failed, os.RemoveAll(r.dir), r.ports.release())
	r.log.Info("local Ray is stopped", "dashboard", r.Address(), "error", failed)
	return failed
}

// keepLogs copies the logs to where they are wanted. A Ray that did not get so
// far has none.
func (r *Ray) keepLogs() error {
	logs, err := filepath.EvalSymlinks(r.Logs())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.CopyFS(filepath.Join(r.logDir, filepath.Base(r.dir)), os.DirFS(logs))
}

// tail is the last of what `ray start` printed.
func (r *Ray) tail() string {
	printed, err := os.ReadFile(r.output.Name())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(printed), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-10):], []byte("\n")))
}

func python(venv string) string { return filepath.Join(venv, "bin", "python") }

// command is Ray's command. It is run by its venv's Python: the first line of the
// file itself breaks when a venv is moved.
func command(venv string) string { return filepath.Join(venv, "bin", "ray") }
