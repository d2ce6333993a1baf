//go:build !image

package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

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
	command.Flags().StringVar(&d.data, "data", devData, "the `FOLDER` that the journal and the logs are kept in")
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
	folder  *devFolder
	open    doors
}

func (d *dev) run(ctx context.Context) error {
	ctx, d.out = untilBroken(ctx, d.out)
	defer d.stop()
	for _, part := range []func(context.Context) error{d.check, d.startNATS, d.startModel, d.startRay, d.deploy} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return d.serve(ctx)
}

// sayf tells of progress, with the seconds since the start.
func (d *dev) sayf(format string, args ...any) {
	fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, args...))
}

func (d *dev) say(line string) { d.sayf("%s", line) }

// stop ends the parts, the last one first.
func (d *dev) stop() {
	for _, stop := range slices.Backward(d.stops) {
		stop()
	}
}

// startModel starts a stand-in for a vLLM server, unless VLLM_URL names one.
func (d *dev) startModel(ctx context.Context) error {
	if d.given["VLLM_URL"] != "" {
		return nil
	}
	url, stop, err := runModel(ctx, 8000, standin.Options{Logger: slog.New(slog.DiscardHandler)})
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
	if !d.ownRay() {
		return nil
	}
	d.sayf("Ray is starting …")
	ray, err := local.Start(ctx, local.Options{
		Venv: d.venv, LogDir: filepath.Join(d.data, "ray"), Env: workerEnvironment(d.given), Progress: d.say,
	})
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() {
		d.sayf("Ray is stopping …")
		stopping, cancel := untilHurried(context.WithoutCancel(ctx), d.hurry)
		defer cancel()
		if err := ray.Stop(stopping); err != nil {
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
	if err := deployJournal(ctx, settings, log, d.say); err != nil {
		return err
	}
	return deployWorker(ctx, settings, log, d.say)
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
	if err := d.folder.tell(told(d.given, d.open.url())); err != nil {
		return err
	}
	var group run.Group
	addTask(ctx, &group, func(ctx context.Context) error { return serve(ctx, settings, log, d.open, d.hurry) })
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
	err := during(d.say, "the server is still starting", func() error { return awaitServer(ctx, url) })
	if err != nil {
		return err
	}
	var receipt pb.ExecuteDeliberationResponse
	err = client.call(ctx, &pb.ExecuteDeliberationRequest{
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
