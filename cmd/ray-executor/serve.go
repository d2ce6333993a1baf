package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/oklog/run"
	"github.com/spf13/cobra"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/gate"
	"rayexecutor/journal"
)

// drain is how long requests under way have to end after SIGTERM; Kubernetes
// kills after 30 s.
const drain = 25 * time.Second

func (p program) serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Serve the functions",
		Long: `Serve the functions on PORT, and on GRPC_PORT too: CloudEvents on POST /, gRPC,
gRPC-Web and Connect, the JSON API under /v1 (/openapi.json describes it),
health under /health, metrics under /metrics. HTTP/1.1 and h2c. Only this machine
reaches them, unless HOST says otherwise.

A keeper runs along unless KEEPER=false, and with it a relay where K_SINK is
set. SIGTERM ends what is under way, then
the process.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadBeside()
			if err != nil {
				return err
			}
			open, err := openDoors(command.Context(), settings)
			if err != nil {
				return err
			}
			if open.grpcTaken != nil {
				log.Warn("gRPC is served on PORT alone", "reason", open.grpcTaken)
			}
			return serve(command.Context(), settings, log, open, p.hurry)
		},
	}
}

// serve runs the function server behind open doors, and a keeper beside it,
// until ctx ends or a part fails. The doors are closed then. What is under way
// has until drain to end, or until hurry is closed.
func serve(ctx context.Context, settings config.Config, log *slog.Logger, open doors, hurry <-chan struct{}) error {
	defer open.close()
	served := function.New()
	if err := served.StartWith(settings, log); err != nil {
		return err
	}
	defer func() { _ = served.Stop(context.WithoutCancel(ctx)) }() // it closes, and cannot fail
	server := newServer(http.HandlerFunc(served.Handle))
	server.RegisterOnShutdown(served.Drain)
	var group run.Group
	for _, listener := range open.all() {
		log.Info("serving", "address", listener.Addr().String())
		addServer(&group, server, listener, hurry)
	}
	// This one ends with ctx, and with it the group.
	addTask(ctx, &group, func(ctx context.Context) error { return awaitJournal(ctx, served, log) })
	if settings.Keeper {
		addTask(ctx, &group, func(ctx context.Context) error { return keep(ctx, settings, served.Metrics(), log) })
	}
	return group.Run()
}

// addTask adds an actor that runs until it fails or the group ends.
func addTask(ctx context.Context, group *run.Group, task func(context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	group.Add(func() error { return task(ctx) }, func(error) { cancel() })
}

// awaitJournal waits until the journal has been reached once, then until ctx
// ends. A server that is too old ends the process: no waiting mends it.
func awaitJournal(ctx context.Context, served *function.Function, log *slog.Logger) error {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for said := ""; ; {
		ready, err := served.Ready(ctx)
		switch {
		case ready:
			log.Info("ready")
			<-ctx.Done()
			return ctx.Err()
		case errors.Is(err, journal.ErrServerTooOld):
			return err
		case said != deliberation.AsError(err).Error():
			said = deliberation.AsError(err).Error()
			log.Warn("not ready yet", "reason", said)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// connect connects to the journal as a part of this program.
func connect(settings config.Config, part string, log *slog.Logger) (*journal.Journal, error) {
	return journal.Connect(function.NATS(settings, part, log))
}

func newServer(handler http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: &protocols,
		// The gate lifts the last two from streams, which may last.
		IdleTimeout: 2 * time.Minute, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: bodyWithin, WriteTimeout: answeredWithin,
		MaxHeaderBytes: maxHeaders,
		ConnState:      gate.NewConnections(gate.ForProcess().Connections).Track,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100, MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 64 << 10,
			SendPingTimeout: time.Minute, PingTimeout: 15 * time.Second, WriteByteTimeout: answeredWithin,
		},
	}
}

// What a client may take of a connection.
const (
	bodyWithin     = 30 * time.Second // from the headers to the body's end
	answeredWithin = time.Minute      // from the headers to the answer's end, but for streams
	maxHeaders     = 64 << 10
)

// alive answers that the process runs, and no more.
func alive(http.ResponseWriter, *http.Request) {}

// addServer has a group serve on a port until it ends.
func addServer(group *run.Group, server *http.Server, listener net.Listener, hurry <-chan struct{}) {
	group.Add(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	}, func(error) { shutdown(server, hurry) })
}

// shutdown takes no more, on any port, lets what is under way end, then closes.
func shutdown(server *http.Server, hurry <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	ctx, stop := untilHurried(ctx, hurry)
	defer stop()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close() // whoever is still here has had the time
	}
}
