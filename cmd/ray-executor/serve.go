// ray-executor serve runs the function server. A keeper runs in the same
// process, unless KEEPER=false.

package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/oklog/run"
	"github.com/spf13/cobra"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/journal"
)

func (p program) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve the functions",
		Long: `Serve the functions on PORT, and gRPC also on GRPC_PORT: CloudEvents on POST /,
gRPC, gRPC-Web and Connect, the JSON API under /v1 (described by /openapi.json),
health under /health, metrics under /metrics. The protocols are HTTP/1.1 and h2c.
The server listens on the loopback interface unless HOST names another address.

A keeper runs in the same process unless KEEPER=false. A relay runs too if K_SINK
is set. After SIGTERM the server finishes the requests in flight and exits.`,
		Example: `  NATS_URL=nats://nats:4222 RAY_ADDRESS=http://ray-head:8265 VLLM_URL=http://vllm:8000 ray-executor serve`,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadWithDev()
			if err != nil {
				return err
			}
			open, err := openListeners(command.Context(), settings)
			if err != nil {
				return err
			}
			if open.grpcError != nil {
				log.Warn("GRPC_PORT is not available: gRPC is served on PORT only", "reason", open.grpcError)
			}
			return serve(command.Context(), settings, log, open, p.force)
		},
	}
}

// serve runs the function server on open listeners, and a keeper beside it,
// until ctx ends or one of the parts fails. Requests in flight may finish:
// until drainTimeout, or until force is closed. It closes the listeners.
func serve(ctx context.Context, settings config.Config, log *slog.Logger, open listeners, force <-chan struct{}) error {
	defer open.close()
	served := function.New()
	if err := served.StartWith(settings, log); err != nil {
		return err
	}
	defer func() { _ = served.Stop(context.WithoutCancel(ctx)) }() // Stop returns no error
	server := newServer(http.HandlerFunc(served.Handle))
	server.RegisterOnShutdown(served.Drain)
	var group run.Group
	for _, listener := range open.all() {
		log.Info("serving", "address", listener.Addr().String())
		addServer(&group, server, listener, force)
	}
	if settings.MetricsPort != 0 {
		if err := addMetricsServer(ctx, &group, settings, served.Metrics(), force); err != nil {
			return err
		}
	}
	// This actor ends with ctx, and its end stops the others.
	addTask(ctx, &group, func(ctx context.Context) error { return awaitJournal(ctx, served, log) })
	if settings.Keeper {
		addTask(ctx, &group, func(ctx context.Context) error { return runKeeper(ctx, settings, served.Metrics(), log) })
	}
	return group.Run()
}

// awaitJournal logs why the server is not ready, each reason once, until the
// journal has been reached; then it waits for the end of ctx. It returns an
// error only for a NATS server that is too old, because waiting cannot help.
func awaitJournal(ctx context.Context, served *function.Function, log *slog.Logger) error {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for logged := ""; ; {
		ready, err := served.Ready(ctx)
		switch {
		case ready:
			log.Info("ready")
			<-ctx.Done()
			return ctx.Err()
		case errors.Is(err, journal.ErrServerTooOld):
			return err
		case logged != deliberation.AsError(err).Error():
			logged = deliberation.AsError(err).Error()
			log.Warn("not ready", "reason", logged)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
