// Package local starts a Ray of one's own on this machine, for `dev` and for
// tests, and stops it again without leaving a process behind.
//
// It listens on 127.0.0.1 alone, on ports of its own, asks for a token that is
// made for each start, and keeps its files in a directory that only its owner may
// enter, so any number can run beside each other. What is in ~/.ray or in the
// variables RAY_* of this process has no effect on it.
//
// Package minder ends Ray's processes, also should this process die without
// stopping it.
package local

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"rayexecutor/minder"
	"rayexecutor/ray"
)

const (
	// defaultObjectStore is in bytes; deliberations use none of it, and 75 MiB
	// is Ray's least.
	defaultObjectStore = 100 << 20
	// poll is how often a starting Ray is looked at, and report how often its
	// start is told of.
	poll   = 100 * time.Millisecond
	report = 15 * time.Second
	// startLimit bounds a start, which takes 5 to 40 s, more where Python first
	// compiles its modules.
	startLimit = 3 * time.Minute
	// grace is how long Ray may take to stop by itself.
	grace = 6 * time.Second
)

// Options says how Ray is started. Venv is needed.
type Options struct {
	// Venv is a Python environment with ray[default,serve].
	Venv string
	// Port and DashboardPort are the head's. 0: free ones are found.
	Port, DashboardPort int
	// Token is what Ray asks for. Empty: a random one.
	Token string
	// NumCPUs is how many CPUs the node hands out. 0: as many as the machine
	// has; -1: none.
	NumCPUs int
	// ObjectStore is the object store's size in bytes. 0: 100 MiB.
	ObjectStore int
	// Env are variables of all of Ray's processes, the workers included, as
	// `name=value`, beside this process's own. Variables of this process whose
	// names begin with RAY_ or PYTHON are not handed on: they speak of another Ray
	// or Python.
	Env []string
	// Dir is where Ray's directory is made, a short path. Empty: /tmp.
	Dir string
	// LogDir is where Stop leaves Ray's logs. Empty: they are removed.
	LogDir string
	// Progress is called with the steps of the start, a line at a time. Nil: nothing is reported.
	Progress func(line string)

	// IP is the node's own loopback address, such as 127.0.0.2, where the Ray
	// is to have several nodes: their addresses must differ. Empty: the Ray has
	// one node, and takes no other.
	IP string
	// Head is the head whose Ray this node joins. Nil: this is a head.
	Head *Ray
}

// Ray is a running local Ray. Make it with Start.
type Ray struct {
	ip     string
	token  string
	head   *Ray // nil: this one is
	dir    *directory
	logDir string
	ports  *ports
	say    func(format string, args ...any)
	family *minder.Family // nil: Ray's process never started
	output *os.File

	stop    sync.Once
	stopped error
}

// Start starts Ray and returns once its dashboard answers and its node is
// alive, some seconds later, or with an error after three minutes. ctx bounds the
// start alone. The error quotes what Ray printed last; nothing runs then.
func Start(ctx context.Context, options Options) (*Ray, error) {
	// Ray runs in another directory than this process.
	venv, err := filepath.Abs(options.Venv)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(command(venv)); err != nil {
		return nil, fmt.Errorf("no Ray in %s: %w: run `make run` or `make test`, which install it", venv, err)
	}
	r, err := prepare(options)
	if err != nil {
		return nil, err
	}
	if err := r.launch(ctx, venv, options); err != nil {
		// Not ctx: it may be over, and nothing must be left behind.
		return nil, errors.Join(err, r.Stop(context.WithoutCancel(ctx)))
	}
	return r, nil
}

// Address is the dashboard's URL.
func (r *Ray) Address() string {
	if r.head != nil {
		return r.head.Address()
	}
	return "http://127.0.0.1:" + strconv.Itoa(r.ports.dashboard())
}

// Token is what Ray wants to be shown: the dashboard as `Authorization: Bearer`,
// Ray's own commands as RAY_AUTH_TOKEN.
func (r *Ray) Token() string { return r.token }

// HTTP asks the dashboard, and shows it the token. Not for other servers.
func (r *Ray) HTTP() *http.Client { return &http.Client{Transport: shows(r.token)} }

// shows is a transport that adds a token.
type shows string

// RoundTrip makes one request.
func (token shows) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("Authorization", "Bearer "+string(token))
	return http.DefaultTransport.RoundTrip(request)
}

// Ports are the head's ports of the GCS and the dashboard, for a Ray that is to
// be where this one was.
func (r *Ray) Ports() (gcs, dashboard int) { return r.ports.gcs, r.ports.dashboard() }

// MetricsPort is where the node exports its metrics, also the worker's.
func (r *Ray) MetricsPort() int { return r.ports.base + 5 }

// IP is the node's address.
func (r *Ray) IP() string { return r.ip }

// Signal sends a signal to one of this node's processes. minder.ErrNotOurs: it is
// none of them, or no more.
func (r *Ray) Signal(pid int, signal os.Signal) error { return r.family.Signal(pid, signal) }

// Kill ends every process of this node at once, as a machine that is lost; Stop
// then clears away what it left.
func (r *Ray) Kill() error { return r.family.Kill() }

// Logs is the directory with Ray's logs, until Stop.
func (r *Ray) Logs() string { return filepath.Join(r.dir.files(), "session_latest", "logs") }

// Exited is closed when Ray has ended, by Stop or by itself, and none of its
// processes is left.
func (r *Ray) Exited() <-chan struct{} { return r.family.Exited() }

// Stop ends every process of this Ray and removes its directory. It may be
// called more than once. When ctx ends Ray is no longer asked but killed.
func (r *Ray) Stop(ctx context.Context) error {
	r.stop.Do(func() { r.stopped = r.shutdown(ctx) })
	return r.stopped
}

// prepare clears away what dead owners left, claims ports and makes the directory.
func prepare(options Options) (*Ray, error) {
	progress := options.Progress
	if progress == nil {
		progress = func(string) {}
	}
	say := func(format string, args ...any) { progress(fmt.Sprintf(format, args...)) }
	parent, err := filepath.Abs(cmp.Or(options.Dir, "/tmp"))
	if err != nil {
		return nil, err
	}
	for _, path := range sweep(parent) {
		say("removed %s of a Ray whose owner died", path)
	}
	ports, err := claim(options.Port, options.DashboardPort)
	if err != nil {
		return nil, err
	}
	dir, err := makeDirectory(parent)
	if err != nil {
		return nil, errors.Join(err, ports.release())
	}
	r := &Ray{
		ip: cmp.Or(options.IP, "127.0.0.1"), token: cmp.Or(options.Token, rand.Text()), head: options.Head,
		dir: dir, logDir: options.LogDir, ports: ports, say: say,
	}
	if r.head != nil {
		r.token = r.head.token
	}
	return r, nil
}

// launch starts the head process and waits until it serves.
func (r *Ray) launch(ctx context.Context, venv string, options Options) error {
	output, err := os.Create(filepath.Join(r.dir.path, "ray-start.log"))
	if err != nil {
		return err
	}
	r.output = output
	if venv, err = r.dir.link(venv); err != nil {
		return err
	}
	r.family, err = minder.Start(minder.Program{
		Line: append([]string{python(venv), command(venv)}, r.arguments(options)...), Env: r.environment(venv, options),
		Dir: r.dir.path, Output: output, Grace: grace, Hold: r.dir.lock, Remove: r.dir.path,
	})
	if err != nil {
		return fmt.Errorf("start Ray: %w", err)
	}
	if err := r.ready(ctx); err != nil {
		return fmt.Errorf("local Ray did not start: %w: %s", err, r.tail())
	}
	return nil
}

// ready waits until the dashboard answers and the node is alive. It gives up
// after startLimit, and at once on what waiting does not mend.
func (r *Ray) ready(ctx context.Context) error {
	client, err := ray.NewClient(ray.Cluster{Name: "local", Address: r.Address(), Token: r.token})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready within %v", startLimit))
	defer cancel()
	begun, looks, reports := time.Now(), time.NewTicker(poll), time.NewTicker(report)
	defer looks.Stop()
	defer reports.Stop()
	for {
		again, err := r.look(ctx, client)
		if !again {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-reports.C:
			r.say("Ray is still starting after %v: %v", time.Since(begun).Round(time.Second), err)
		case <-r.family.Exited():
		case <-looks.C:
		}
	}
}

// look is nil when Ray is ready; again reports whether waiting may clear its error.
func (r *Ray) look(ctx context.Context, client *ray.Client) (again bool, err error) {
	select {
	case <-r.family.Exited():
		return false, fmt.Errorf("its head process ended: %w", r.family.Err())
	default:
	}
	if r.head != nil {
		err = r.joined()
		return err != nil, err
	}
	nodes, err := client.Nodes(ctx)
	switch {
	case ray.Refused(err):
		return false, fmt.Errorf("another Ray answers in its place, stop that or choose other ports: %w", err)
	case err == nil && nodes.Alive == 0:
		err = errors.New("its node is not alive yet")
	}
	return err != nil, err
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
	if r.family != nil {
		failed = r.family.Stop(ctx)
	}
	if r.output != nil {
		failed = errors.Join(failed, r.output.Close())
	}
	if r.logDir != "" {
		failed = errors.Join(failed, r.keepLogs())
	}
	return errors.Join(failed, r.dir.remove(), r.ports.release())
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
	return os.CopyFS(filepath.Join(r.logDir, filepath.Base(r.dir.path)), os.DirFS(logs))
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
