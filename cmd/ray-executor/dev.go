//go:build !image

// ray-executor dev runs the whole service on this machine. The steps of its
// start are in run, in their order; dev_check.go has the checks before them,
// dev_nats.go the NATS server.

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

	"rayexecutor/client"
	"rayexecutor/config"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/ray/local"
	"rayexecutor/standin"
)

func (p program) devCommand() *cobra.Command {
	d := &dev{program: p, started: time.Now()}
	command := &cobra.Command{
		Use:   "dev",
		Short: "Run the whole service on this machine",
		Long: `Run the whole service on this machine, and one deliberation through it: a NATS
server, a stand-in for the model, Ray with the worker, and the function server.
Ctrl-C stops them. NATS_URL, VLLM_URL and RAY_ADDRESS each name an existing server
to use in place of its own one. Ray comes from the Python environment of --venv.`,
		Example: `  ray-executor dev
  PORT=8081 VLLM_URL=http://vllm:8000 ray-executor dev`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return d.run(command.Context()) },
	}
	command.Flags().StringVar(&d.venv, "venv", ".venv", "`FOLDER` of a Python environment with Ray, such as the one that make run creates")
	command.Flags().StringVar(&d.data, "data", devData, "`FOLDER` for the journal and the logs")
	return command
}

// dev is the whole service on one machine.
type dev struct {
	program
	venv    string
	data    string
	started time.Time
	given   map[string]string // the settings; each part adds its address when it has started
	stops   []func()          // in the order of the starts
	folder  *devFolder
	open    listeners
}

// run starts the parts in the order of their dependencies, and stops them in the
// reverse order: a worker that drains still needs NATS. All checks come before
// anything is started.
func (d *dev) run(ctx context.Context) error {
	ctx, d.out = untilBroken(ctx, d.text())
	defer d.stop()
	for _, step := range []func(context.Context) error{d.check, d.startNATS, d.startModel, d.startRay, d.deploy} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.serve(ctx)
}

// reportf prints a line of progress, with the seconds since the start.
func (d *dev) reportf(format string, args ...any) {
	fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.started).Seconds(), fmt.Sprintf(format, args...))
}

func (d *dev) report(line string) { d.reportf("%s", line) }

// stop stops the parts, the last one first: Ray's worker needs NATS to hand its
// deliberations back.
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
	d.reportf("stand-in model on %s", url)
	return nil
}

// startRay starts Ray, unless RAY_ADDRESS or RAY_CLUSTERS names one.
func (d *dev) startRay(ctx context.Context) error {
	if !d.startsRay() {
		return nil
	}
	d.reportf("starting Ray …")
	ray, err := local.Start(ctx, local.Options{
		Venv: d.venv, LogDir: filepath.Join(d.data, "ray"), Env: workerEnvironment(d.given), Progress: d.report,
	})
	if err != nil {
		return err
	}
	d.stops = append(d.stops, func() {
		d.reportf("stopping Ray …")
		stopping, cancel := untilForced(context.WithoutCancel(ctx), d.force)
		defer cancel()
		if err := ray.Stop(stopping); err != nil {
			fmt.Fprintln(d.errors, err)
		}
	})
	d.given["RAY_ADDRESS"], d.given["RAY_AUTH_TOKEN"] = ray.Address(), ray.Token()
	d.reportf("Ray on %s", ray.Address())
	return nil
}

// deploy is the deploy command, on the servers of this dev. It runs at each start:
// the folder may have the journal of an older version.
func (d *dev) deploy(ctx context.Context) error {
	settings, log, err := d.settings()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deployTimeout)
	defer cancel()
	if err := deployJournal(ctx, settings, log, d.report); err != nil {
		return err
	}
	return deployWorker(ctx, settings, log, d.report)
}

// settings returns the given settings with the addresses of the started parts,
// and a logger. Parse changes its argument, so it gets a copy.
func (d *dev) settings() (config.Config, *slog.Logger, error) {
	settings, err := config.Parse(maps.Clone(d.given))
	if err != nil {
		return config.Config{}, nil, err
	}
	return settings, newLogger(d.errors, settings, false), nil
}

// serve serves until ctx ends, and runs the first deliberation.
func (d *dev) serve(ctx context.Context) error {
	settings, log, err := d.settings()
	if err != nil {
		return err
	}
	if err := d.folder.write(sharedSettings(d.given, d.open.url())); err != nil {
		return err
	}
	var group run.Group
	addTask(ctx, &group, func(ctx context.Context) error { return serve(ctx, settings, log, d.open, d.force) })
	addTask(ctx, &group, func(ctx context.Context) error {
		if err := d.demonstrate(ctx, d.open.url()); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	return group.Run()
}

// demonstrate runs a deliberation of three agents, and prints each proposal and
// how long each step took.
func (d *dev) demonstrate(ctx context.Context, url string) error {
	d.reportf("serving on %s", url)
	switch {
	case d.open.grpcError != nil:
		d.reportf("gRPC is served on the same port only, because GRPC_PORT is not available: %v", d.open.grpcError)
	case len(d.open.grpc) > 0:
		d.reportf("serving gRPC also on %s", d.open.grpc[0].Addr())
	}
	client, err := d.dialWith(url, client.Options{})
	if err != nil {
		return err
	}
	err = during(d.report, "waiting for the server", func() error { return awaitServer(ctx, url) })
	if err != nil {
		return err
	}
	if d.given["AUTH"] == "keys" && d.environment("RAY_EXECUTOR_TOKEN") == "" {
		d.reportf("no deliberation is run: AUTH=keys, and RAY_EXECUTOR_TOKEN holds no API key")
		return nil
	}
	receipt, err := client.Submit(ctx, &pb.ExecuteDeliberationRequest{
		TaskId: "hello", Role: "DEV",
		TaskDescription: "Say how a cache in front of the catalogue would be built, and what could go wrong.",
		Agents:          []*pb.Agent{{Id: "architect", Role: "ARCHITECT"}, {Id: "developer"}, {Id: "tester", Role: "QA"}},
	})
	if err != nil {
		return err
	}
	d.reportf("submitted deliberation %s with three agents", receipt.GetDeliberationId())
	progress := newProgress(d.out, true)
	defer progress.tick()()
	status, err := client.Follow(ctx, receipt.GetDeliberationId(), progress.show)
	if err != nil {
		return err
	}
	fmt.Fprintln(d.out)
	writeStatus(d.out, status)
	fmt.Fprintf(d.out, "\nTry: bin/ray-executor submit \"What is a cache?\" --wait --server %s\nCtrl-C stops everything.\n", url)
	return nil
}
