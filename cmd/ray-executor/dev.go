//go:build !image

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/oklog/run"
	"github.com/spf13/cobra"

	"rayexecutor/config"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/ray/local"
	"rayexecutor/standin"
)

func (p program) devCommand() *cobra.Command {
	d := &dev{program: p, started: time.Now()}
	command := &cobra.Command{
		Use:   "dev",
		Short: "Run everything on this machine and send one deliberation through it",
		Long: `Run everything on this machine: a NATS server, a stand-in model, a Ray of its
own from the Python environment that --venv names, the worker on it and the
function server; then send one deliberation through it all and stay up until
Ctrl-C. Each part is left out where its setting names a real one: NATS_URL,
VLLM_URL, RAY_ADDRESS.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return d.run(command.Context()) },
	}
	command.Flags().StringVar(&d.venv, "venv", ".venv", "the Python environment with Ray in it, as `make run` makes it")
	command.Flags().StringVar(&d.data, "data", ".ray-executor", "the `FOLDER` that the journal and the logs are kept in")
	return command
}

// dev is everything on one machine.
type dev struct {
	program
	venv    string
	data    string
	started time.Time
	given   map[string]string // the settings; each part that starts adds its own
	stops   []func()          // in the order of their start
	open    doors
}

func (d *dev) run(ctx context.Context) error {
	given, err := config.Given(d.environ)
	if err != nil {
		return err
	}
	d.given = given
	defer d.stop()
	if err := d.openDoors(ctx); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{d.startNATS, d.startModel, d.startRay, d.deploy} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return d.serve(ctx)
}

// openDoors takes the ports before anything slow starts: whoever calls
// meanwhile is answered once all is up.
func (d *dev) openDoors(ctx context.Context) error {
	settings, _, err := d.settings()
	if err != nil {
		return err
	}
	settings.GRPCDefault = true // dev goes on without, whoever set it
	if d.open, err = openDoors(ctx, settings); errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w, as in PORT=%d make run", err, portSetting{"PORT", settings.Port}.another())
	} else if err != nil {
		return err
	}
	d.stops = append(d.stops, d.open.close)
	return nil
}

// sayf tells of progress, with the seconds since the start.
func (d *dev) sayf(format string, args ...any) {
	fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, args...))
}

// stop ends the parts, the last one first.
func (d *dev) stop() {
	for _, stop := range slices.Backward(d.stops) {
		stop()
	}
}

// startNATS starts a NATS server with JetStream in this process, unless
// NATS_URL names one. Its journal outlives it.
func (d *dev) startNATS(ctx context.Context) error {
	if d.given["NATS_URL"] != "" {
		return nil
	}
	options := &server.Options{
		ServerName: "ray-executor-dev", Host: "127.0.0.1", Port: freePort(ctx, 4222),
		JetStream: true, StoreDir: filepath.Join(d.data, "nats"), NoSigs: true, NoLog: true,
	}
	embedded, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("embedded NATS: %w", err)
	}
	embedded.Start()
	d.stops = append(d.stops, func() { embedded.Shutdown(); embedded.WaitForShutdown() })
	if !embedded.ReadyForConnections(10 * time.Second) {
		return fmt.Errorf("embedded NATS did not start; is another dev running with --data %s?", d.data)
	}
	d.given["NATS_URL"] = embedded.ClientURL()
	d.sayf("NATS %s on %s, its journal in %s", server.VERSION, embedded.ClientURL(), options.StoreDir)
	return nil
}

// startModel starts a stand-in for a vLLM server, unless VLLM_URL names one.
func (d *dev) startModel(ctx context.Context) error {
	if d.given["VLLM_URL"] != "" {
		return nil
	}
	url, stop, err := runModel(ctx, freePort(ctx, 8000), standin.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("stand-in model: %w", err)
	}
	d.stops = append(d.stops, stop)
	d.given["VLLM_URL"] = url
	if d.given["VLLM_MODEL"] == "" {
		d.given["VLLM_MODEL"] = "stand-in"
	}
	d.sayf("stand-in model on %s", url)
	return nil
}

// startRay starts a Ray on this machine, unless RAY_ADDRESS or
// RAY_CLUSTERS names one.
func (d *dev) startRay(ctx context.Context) error {
	if d.given["RAY_ADDRESS"] != "" || d.given["RAY_CLUSTERS"] != "" {
		return nil
	}
	d.sayf("Ray is starting …")
	logs, err := filepath.Abs(filepath.Join(d.data, "ray"))
	if err != nil {
		return err
	}
	ray, err := local.Start(ctx, local.Options{Venv: d.venv, LogDir: logs, Progress: func(line string) { d.sayf("%s", line) }})
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() {
		d.sayf("Ray is stopping …")
		if err := ray.Stop(context.WithoutCancel(ctx)); err != nil {
			fmt.Fprintln(d.errors, err)
		}
	})
	d.given["RAY_ADDRESS"], d.given["RAY_AUTH_TOKEN"] = ray.Address(), ray.Token()
	d.sayf("Ray on %s", ray.Address())
	return nil
}

func (d *dev) deploy(ctx context.Context) error {
	settings, log, err := d.settings()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	say := func(line string) { d.sayf("%s", line) }
	if err := deployJournal(ctx, settings, log, say); err != nil {
		return err
	}
	return deployWorker(ctx, settings, say)
}

// settings are what was given and what the parts added. The log goes to a
// file: the screen is for progress.
func (d *dev) settings() (config.Config, *slog.Logger, error) {
	settings, err := config.Parse(maps.Clone(d.given))
	if err != nil {
		return config.Config{}, nil, err
	}
	return settings, newLogger(d.errors, settings, false), nil
}

// serve serves until ctx ends, and sends the first deliberation.
func (d *dev) serve(ctx context.Context) error {
	settings, log, err := d.settings()
	if err != nil {
		return err
	}
	var group run.Group
	addTask(ctx, &group, func(ctx context.Context) error { return serve(ctx, settings, log, d.open) })
	addTask(ctx, &group, func(ctx context.Context) error {
		if err := d.demonstrate(ctx, d.open.url()); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	return group.Run()
}

// demonstrate sends a deliberation of three agents through it all and prints
// what each proposed and how long each step took.
func (d *dev) demonstrate(ctx context.Context, url string) error {
	d.sayf("serving on %s", url)
	switch {
	case d.open.grpcTaken != nil:
		d.sayf("gRPC is served there too, and not on GRPC_PORT: %v", d.open.grpcTaken)
	case len(d.open.grpc) > 0:
		d.sayf("serving gRPC on %s, too", d.open.grpc[0].Addr())
	}
	client := newClient(url)
	if err := awaitServer(ctx, url); err != nil {
		return err
	}
	var receipt pb.ExecuteDeliberationResponse
	err := client.call(ctx, &pb.ExecuteDeliberationRequest{
		TaskId: "hello", Role: "DEV",
		TaskDescription: "Say how a cache in front of the catalogue would be built, and what could go wrong.",
		Agents:          []*pb.Agent{{Id: "architect", Role: "ARCHITECT"}, {Id: "developer"}, {Id: "tester", Role: "QA"}},
	}, &receipt)
	if err != nil {
		return err
	}
	d.sayf("submitted deliberation %s of three agents", receipt.GetDeliberationId())
	status, err := follow(ctx, client, receipt.GetDeliberationId(), newProgress(d.out, true).show)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	writeStatus(d.out, status)
	fmt.Fprintf(d.out, "\nTry: bin/ray-executor submit \"What is a cache?\" --wait --server %s\nCtrl-C stops everything.\n", url)
	return nil
}

// awaitServer waits until a function server is ready.
func awaitServer(ctx context.Context, url string) error {
	for {
		_, err := checkServer(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freePort returns the preferred port where it is free, else any that is.
func freePort(ctx context.Context, preferred int) int {
	for _, port := range []int{preferred, 0} {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer listener.Close()
		return listener.Addr().(*net.TCPAddr).Port
	}
	return preferred
}
