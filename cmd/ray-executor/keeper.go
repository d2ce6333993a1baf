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

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/gate"
	"rayexecutor/keeper"
)

func (p program) keeperCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keeper",
		Short: "Run a keeper alone: announce ends, end what is overdue, carry the statistics forward",
		Long: `Run a keeper alone: announce ends, end what is overdue, carry the statistics
forward, set aside what was given up, and say when a Ray cluster is lost.
AGENT_RESPONSES=true also tells of each agent; where K_SINK is set, a relay runs
along. Metrics are on PORT, under /metrics, and /health/liveness beside.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadWithDev()
			if err != nil {
				return err
			}
			return keepAlone(command.Context(), settings, log, p.force)
		},
	}
}

// keepAlone runs a keeper that serves its own metrics. It runs without them
// where PORT is taken: ends must be announced all the same.
func keepAlone(ctx context.Context, settings config.Config, log *slog.Logger, force <-chan struct{}) error {
	if err := gate.LimitMemory(); err != nil {
		log.Warn("memory is not limited", "reason", err)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var group run.Group
	listeners, err := portSetting{"PORT", settings.Port}.listen(ctx, settings.Host)
	if err != nil {
		log.Warn("the keeper serves no metrics: PORT cannot be used", "reason", err)
	} else {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
		mux.HandleFunc("GET /health/liveness", alive)
		server := newServer(mux)
		for _, listener := range listeners {
			log.Info("metrics", "address", listener.Addr().String())
			addServer(&group, server, listener, force)
		}
	}
	addTask(ctx, &group, func(ctx context.Context) error { return keep(ctx, settings, metrics, log) })
	return group.Run()
}

// keep runs a keeper, and a relay where there is a sink, until ctx ends.
func keep(ctx context.Context, settings config.Config, metrics prometheus.Registerer, log *slog.Logger) error {
	clusters, err := function.Fleet(settings)
	if err != nil {
		return err
	}
	defer clusters.Close()
	journal, err := connect(settings, "keeper", log)
	if err != nil {
		return err
	}
	defer journal.Close()
	clusters.Hear(journal)
	// The functions of this process have their own.
	prometheus.WrapRegistererWith(prometheus.Labels{"part": "keeper"}, metrics).MustRegister(journal.Metrics()...)
	options := []keeper.Option{keeper.WatchClusters(clusters, metrics)}
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
