// ray-executor keeper runs a keeper in a process of its own. serve runs the same
// keeper in its process.

package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"rayexecutor/config"
	"rayexecutor/gate"
	"rayexecutor/keeper"
)

func (p program) keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keeper",
		Short: "Run a keeper: publish ends, enforce deadlines, store dead letters",
		Long: `Run a keeper: publish the end of each deliberation on NATS, end the deliberations
whose deadline has passed, save a snapshot of the statistics, store dead letters,
and report lost Ray clusters. AGENT_RESPONSES=true also publishes a message for
each agent. A relay runs in the same process if K_SINK is set. Metrics are on
PORT under /metrics, and the liveness probe is /health/liveness.`,
		Example: `  NATS_URL=nats://nats:4222 RAY_ADDRESS=http://ray-head:8265 PORT=8081 ray-executor keeper`,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadWithDev()
			if err != nil {
				return err
			}
			return serveKeeper(command.Context(), settings, log, p.force)
		},
	}
}

// serveKeeper runs a keeper and serves its metrics. If PORT is taken, it runs
// without metrics: publishing the ends matters more.
func serveKeeper(ctx context.Context, settings config.Config, log *slog.Logger, force <-chan struct{}) error {
	if err := gate.LimitMemory(); err != nil {
		log.Warn("GOMEMLIMIT is not set: the cgroup's memory limit cannot be read", "reason", err)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var group run.Group
	mux := http.NewServeMux()
	if settings.MetricsPort == 0 {
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	} else if err := addMetricsServer(ctx, &group, settings, metrics, force); err != nil {
		log.Warn("the keeper serves no metrics: METRICS_PORT is not available", "reason", err)
	}
	listeners, err := portSetting{"PORT", settings.Port}.listen(ctx, settings.BareHost)
	if err != nil {
		log.Warn("the keeper serves no metrics: PORT is not available", "reason", err)
	}
	mux.HandleFunc("GET /health/liveness", alive)
	server := newServer(mux)
	for _, listener := range listeners {
		log.Info("serving metrics", "address", listener.Addr().String())
		addServer(&group, server, listener, force)
	}
	addTask(ctx, &group, func(ctx context.Context) error { return runKeeper(ctx, settings, metrics, log) })
	return group.Run()
}

// runKeeper runs a keeper, and a relay if K_SINK is set, until ctx ends or one of
// them fails.
//
// Its journal's metrics have the label part=keeper: in serve, the functions have
// a connection and metrics of their own.
func runKeeper(ctx context.Context, settings config.Config, metrics prometheus.Registerer, log *slog.Logger) error {
	journal, err := connectJournal(settings, "keeper", log)
	if err != nil {
		return err
	}
	defer journal.Close()
	clusters, err := connectFleet(settings, journal)
	if err != nil {
		return err
	}
	defer clusters.Close()
	prometheus.WrapRegistererWith(prometheus.Labels{"part": "keeper"}, metrics).MustRegister(journal.Metrics()...)
	options := []keeper.Option{keeper.WatchClusters(clusters, metrics), keeper.ExportTotals(metrics, settings.PoolNames()...)}
	if settings.AgentResponses {
		options = append(options, keeper.AgentResponses())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return keeper.New(journal, log, options...).Run(ctx) })
	if settings.Sink != "" {
		group.Go(func() error { return runRelay(ctx, settings, log) })
	}
	return group.Wait()
}
