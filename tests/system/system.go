// Package system starts the whole system for tests, of real parts: nats-server
// and `ray-executor serve` as processes, a Ray of its own, and a model server
// that the test chooses. It speaks to it as callers do, by CloudEvents.
package system

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"rayexecutor/ray/local"
	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
)

// Options says what to start.
type Options struct {
	// Dir is where the journal and the logs are.
	Dir string
	// ModelURL is the model server, Model its model.
	ModelURL string
	Model    string
	// Settings are further settings, NAME=value, for serve, deploy and the
	// Ray nodes.
	Settings []string
	// RayCPUs is how many CPUs Ray hands out; 0: as many as there are.
	RayCPUs int
	// Wrap is a command that runs the server, whose own command line follows it.
	Wrap []string
	// WrapNATS is the same for nats-server.
	WrapNATS []string
}

// System is the whole system. Its parts start one by one: a test may want to
// see what happens before the next is there.
type System struct {
	options  Options
	natsPort int
	port     int
	url      string
	root     string
	token    string // of each Ray

	nats   *Process
	server *Process
	ray    *local.Ray
	http   *http.Client

	mu       sync.Mutex
	accepted map[string]bool
}

// New builds the program and chooses ports; nothing has started.
func New(options Options) (*System, error) {
	if err := Build("build"); err != nil {
		return nil, err
	}
	natsPort, err := freeport.Take()
	if err != nil {
		return nil, err
	}
	port, err := freeport.Take()
	if err != nil {
		return nil, err
	}
	return &System{
		options: options, natsPort: natsPort, port: port, token: rand.Text(), url: "http://127.0.0.1:" + strconv.Itoa(port), root: Root(),
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, accepted: make(map[string]bool),
	}, nil
}

// Root is the repository's folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// URL is the function server's.
func (s *System) URL() string { return s.url }

// Serve names another function server, in place of StartServer's.
func (s *System) Serve(url string) { s.url = url }

// NATSURL is the NATS server's.
func (s *System) NATSURL() string { return "nats://127.0.0.1:" + strconv.Itoa(s.natsPort) }

// Environ is what serve, deploy and the client commands run with.
func (s *System) Environ() []string {
	environ := append(os.Environ(),
		"NATS_URL="+s.NATSURL(), "PORT="+strconv.Itoa(s.port), "GRPC_PORT=0",
		"VLLM_URL="+s.options.ModelURL, "VLLM_MODEL="+s.options.Model,
		"RAY_ADDRESS="+s.rayAddress(), "RAY_AUTH_TOKEN="+s.token,
	)
	return append(environ, s.options.Settings...)
}

// rayAddress is where Ray is, or where nothing listens while it is not there.
func (s *System) rayAddress() string {
	if s.ray == nil {
		return "http://127.0.0.1:9"
	}
	return s.ray.Address()
}

// StartNATS starts nats-server on its journal, and the journal's streams if
// they are not there yet.
func (s *System) StartNATS(ctx context.Context) error {
	binary := filepath.Join(s.root, ".tools", "nats-server")
	var err error
	command := append(slices.Clone(s.options.WrapNATS), binary,
		"-a", "127.0.0.1", "-p", strconv.Itoa(s.natsPort), "-js", "-sd", filepath.Join(s.options.Dir, "nats"))
	s.nats, err = Start(filepath.Join(s.options.Dir, "nats.log"), os.Environ(), command[0], command[1:]...)
	if err != nil {
		return fmt.Errorf("%w; run `make test-go`, which builds it", err)
	}
	return await.Until(ctx, "NATS", func() error {
		conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(s.natsPort))
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// StopNATS kills nats-server.
func (s *System) StopNATS() error { return s.nats.Kill() }

// PauseNATS stops nats-server from answering, until Close kills it.
func (s *System) PauseNATS() error { return s.nats.Pause() }

// Run runs a command of ray-executor to its end and returns what it printed.
func (s *System) Run(ctx context.Context, args ...string) (string, error) {
	return s.RunWith(ctx, nil, args...)
}

// RunWith is Run with further settings.
func (s *System) RunWith(ctx context.Context, settings []string, args ...string) (string, error) {
	return Output(ctx, append(s.Environ(), settings...), s.binary(), args...)
}

func (s *System) binary() string { return filepath.Join(s.root, "bin", "ray-executor") }

// LaunchServer starts `ray-executor serve` and does not wait.
func (s *System) LaunchServer() error {
	var err error
	command := append(slices.Clone(s.options.Wrap), s.binary(), "serve")
	s.server, err = Start(filepath.Join(s.options.Dir, "serve.log"), s.Environ(), command[0], command[1:]...)
	if err != nil {
		return fmt.Errorf("%w; run `make build`", err)
	}
	return nil
}

// StartServer starts `ray-executor serve` and waits until it is ready.
func (s *System) StartServer(ctx context.Context) error {
	if err := s.LaunchServer(); err != nil {
		return err
	}
	return await.Until(ctx, "the server to be ready", func() error {
		response, err := s.http.Get(s.URL() + "/health/readiness")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(response.Body)
			return errors.New(string(body))
		}
		return nil
	})
}

// ServerPID is the server's process.
func (s *System) ServerPID() int { return s.server.PID() }

// NATSPID is nats-server's process.
func (s *System) NATSPID() int { return s.nats.PID() }

// StopServer ends `ray-executor serve` as Kubernetes does, by SIGTERM.
func (s *System) StopServer() error { return s.server.Terminate() }

// StartRay starts a Ray and deploys the worker on it.
func (s *System) StartRay(ctx context.Context) error {
	if err := s.LaunchRay(ctx); err != nil {
		return err
	}
	return s.Deploy(ctx)
}

// LaunchRay starts a Ray with nothing on it, in the place of the one that there
// was.
func (s *System) LaunchRay(ctx context.Context) error {
	options := local.Options{
		Venv: Venv(), LogDir: filepath.Join(s.options.Dir, "ray"), Env: s.options.Settings, NumCPUs: s.options.RayCPUs,
		Token: s.token,
	}
	if s.ray != nil {
		options.Port, options.DashboardPort = s.ray.Ports()
		if err := s.ray.Stop(ctx); err != nil {
			return err
		}
	}
	var err error
	s.ray, err = local.Start(ctx, options)
	return err
}

// Venv is the Python environment that Ray is in.
func Venv() string {
	if venv := os.Getenv("RAY_VENV"); venv != "" {
		return venv
	}
	return filepath.Join(Root(), ".venv")
}

// Deploy runs `ray-executor deploy`.
func (s *System) Deploy(ctx context.Context) error {
	printed, err := s.Run(ctx, "deploy")
	if err != nil {
		return fmt.Errorf("deploy: %w\n%s", err, printed)
	}
	return nil
}

// Ray is the Ray that StartRay started.
func (s *System) Ray() *local.Ray { return s.ray }

// NATS connects to the NATS server.
func (s *System) NATS() (*nats.Conn, error) { return nats.Connect(s.NATSURL()) }

// Close stops whatever runs.
func (s *System) Close() error {
	var errs []error
	if s.ray != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		errs = append(errs, s.ray.Stop(ctx))
	}
	for _, process := range []*Process{s.server, s.nats} {
		if process != nil {
			errs = append(errs, process.Terminate())
		}
	}
	return errors.Join(errs...)
}

// Logs are the ends of the parts' logs, for a failure's report.
func (s *System) Logs() string {
	var report strings.Builder
	for _, name := range []string{"serve.log", "nats.log"} {
		data, _ := os.ReadFile(filepath.Join(s.options.Dir, name))
		fmt.Fprintf(&report, "--- %s\n%s\n", name, data[max(0, len(data)-4000):])
	}
	return report.String()
}
