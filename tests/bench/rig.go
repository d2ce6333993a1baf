package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rayexecutor/standin"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// modelName is the model that answers at once; slowModel takes 2 s, longModel
// long enough for all agents to wait at the same time.
const (
	modelName = "quick"
	slowModel = "slow"
	longModel = "long"
)

// longDelay is what longModel takes.
const longDelay = time.Minute

// rig is the whole system with a Ray, and on the same Ray what it is compared
// with.
type rig struct {
	sys       *system.System
	model     *standin.Server
	modelURL  string
	stopModel func()
	ends      *ends
	serving   string // the URL of the Ray Serve application
	actors    string // the URL of the service with an actor an agent
	bare      *bare
}

// needRay starts the rig, or returns the one that runs.
func (b *bench) needRay(ctx context.Context) (*rig, error) {
	if b.ray != nil {
		return b.ray, nil
	}
	b.sayf("starting Ray, the system, and what it is compared with")
	b.ray = &rig{}
	if err := b.ray.start(ctx, filepath.Join(b.dir, "ray")); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, b.ray.logs())
	}
	return b.ray, nil
}

func (r *rig) logs() string {
	if r.sys == nil {
		return ""
	}
	return r.sys.Logs()
}

func (r *rig) start(ctx context.Context, dir string) (err error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := r.startModel(ctx); err != nil {
		return err
	}
	r.sys, err = system.New(system.Options{
		Dir: dir, ModelURL: r.modelURL, Model: modelName, RayCPUs: 8,
		Settings: []string{"POOLS=default:20000"},
	})
	if err != nil {
		return err
	}
	for _, start := range []func(context.Context) error{r.sys.StartJournal, r.sys.LaunchRay} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	// Before our own: whoever starts Serve decides whether it has proxies.
	if r.serving, err = r.startService(ctx, "serving.py", `{"model":"quick","agents":1}`); err != nil {
		return err
	}
	if r.actors, err = r.startService(ctx, "actors.py", `{"model":"quick","agents":1,"wait":true}`); err != nil {
		return err
	}
	if r.bare, err = startBare(r.modelURL); err != nil {
		return err
	}
	for _, start := range []func(context.Context) error{r.sys.Deploy, r.sys.StartServer} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	r.ends, err = listen(ctx, r.sys)
	return err
}

func (r *rig) startModel(ctx context.Context) (err error) {
	r.model, err = standin.New(standin.Options{
		Logger: slog.New(slog.DiscardHandler), Record: 1, RecordText: 1,
		Behaviours: map[string]standin.Behaviour{
			slowModel: {Delay: 2 * time.Second}, longModel: {Delay: longDelay},
		},
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.modelURL = "http://" + listener.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- r.model.Serve(ctx, listener) }()
	r.stopModel = func() { cancel(); <-ended }
	return nil
}

// startService runs a Python service as a Ray job until it answers.
func (r *rig) startService(ctx context.Context, script, first string) (string, error) {
	port, err := freeport.Take()
	if err != nil {
		return "", err
	}
	id, err := r.submitJob(ctx, script, r.modelURL, strconv.Itoa(port))
	if err != nil {
		return "", err
	}
	url := "http://127.0.0.1:" + strconv.Itoa(port)
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/deliberations", strings.NewReader(first))
		if err != nil {
			return "", err
		}
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return url, nil
			}
			err = errors.New(response.Status)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s does not answer: %w\n%s", script, err, r.jobLog(id))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// submitJob submits a job by Ray's REST API, and returns its id.
func (r *rig) submitJob(ctx context.Context, script string, args ...string) (string, error) {
	line := []string{filepath.Join(system.Venv(), "bin", "python"), filepath.Join(scripts(), script)}
	body, err := json.Marshal(map[string]string{"entrypoint": strings.Join(append(line, args...), " ")})
	if err != nil {
		return "", err
	}
	var job struct {
		ID string `json:"submission_id"`
	}
	err = r.jobs(ctx, http.MethodPost, "", bytes.NewReader(body), &job)
	return job.ID, err
}

// awaitJob waits until a job has ended well.
func (r *rig) awaitJob(ctx context.Context, id string) error {
	for {
		var job struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		}
		if err := r.jobs(ctx, http.MethodGet, id, http.NoBody, &job); err != nil {
			return err
		}
		switch job.Status {
		case "SUCCEEDED":
			return nil
		case "FAILED", "STOPPED":
			return fmt.Errorf("job %s: %s: %s", job.Status, job.Message, r.jobLog(id))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *rig) jobs(ctx context.Context, method, id string, body io.Reader, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, r.sys.Ray().Address()+"/api/jobs/"+id, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := r.sys.Ray().HTTP().Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		return fmt.Errorf("jobs: %s: %s", response.Status, body)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// jobLog is what a job has printed last.
func (r *rig) jobLog(id string) string {
	data, err := os.ReadFile(filepath.Join(r.sys.Ray().Logs(), "job-driver-"+id+".log"))
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-3000):])
}

// closeRay stops all that needRay has started.
func (b *bench) closeRay() error {
	r := b.ray
	if r == nil {
		return nil
	}
	b.ray = nil
	var errs []error
	if r.ends != nil {
		r.ends.close()
	}
	if r.bare != nil {
		errs = append(errs, r.bare.close())
	}
	if r.sys != nil {
		errs = append(errs, r.sys.Close())
	}
	if r.stopModel != nil {
		r.stopModel()
	}
	return errors.Join(errs...)
}

// bare is the client in Python that only calls the model.
type bare struct {
	command *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Scanner
}

func startBare(modelURL string) (*bare, error) {
	command := system.Command(os.Environ(), filepath.Join(system.Venv(), "bin", "python"), filepath.Join(scripts(), "client.py"), modelURL)
	command.Stderr = os.Stderr
	orders, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &bare{command, orders, bufio.NewScanner(answers)}, command.Start()
}

// order has the client do something, and returns what it measured.
func (c *bare) order(order map[string]any) (map[string]float64, error) {
	data, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	if _, err := c.orders.Write(append(data, '\n')); err != nil {
		return nil, err
	}
	if !c.answers.Scan() {
		return nil, fmt.Errorf("the bare client has ended: %w", errors.Join(c.answers.Err(), io.EOF))
	}
	var measured map[string]float64
	return measured, json.Unmarshal(c.answers.Bytes(), &measured)
}

func (c *bare) close() error {
	c.orders.Close()
	return c.command.Wait()
}

// scripts is the folder of what is in Python.
func scripts() string { return filepath.Join(system.Root(), "tests", "bench", "python") }
