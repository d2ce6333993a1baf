package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/journal"
	"rayexecutor/ray"
)

func (p program) deployCommand() *cobra.Command {
	var only string
	command := &cobra.Command{
		Use:   "deploy",
		Short: "Make or update the journal, its consumers and the Ray worker",
		Long: `Make or update the journal's streams and consumers on NATS_URL, then the
worker on RAY_ADDRESS. It is safe to repeat: what is as it should be is left
alone, and so are other applications of the cluster.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadBeside()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(command.Context(), 5*time.Minute)
			defer cancel()
			say := func(line string) { fmt.Fprintln(p.out, line) }
			if only != "worker" {
				if err := deployJournal(ctx, settings, log, say); err != nil {
					return err
				}
			}
			if only != "journal" {
				return deployWorker(ctx, settings, say)
			}
			return nil
		},
	}
	command.Flags().StringVar(&only, "only", "", "deploy only the `part`: journal or worker")
	command.PreRunE = func(*cobra.Command, []string) error {
		if only != "" && only != "journal" && only != "worker" {
			return fmt.Errorf("--only=%s: must be journal or worker", only)
		}
		return nil
	}
	return command
}

func deployJournal(ctx context.Context, settings config.Config, log *slog.Logger, say func(string)) error {
	events, err := connect(settings, "deploy", log)
	if err != nil {
		return err
	}
	defer events.Close()
	err = during(say, "journal: still being made", func() error { return events.Deploy(ctx, layoutOf(settings)) })
	if err != nil {
		return err
	}
	say("journal: streams and consumers are in place")
	return nil
}

func layoutOf(settings config.Config) journal.Layout {
	layout := journal.Layout{
		Replicas: settings.JournalReplicas, MaxAge: settings.JournalMaxAge, MaxBytes: settings.JournalMaxBytes,
		AgentResponses: settings.AgentResponses, Relay: settings.Sink != "",
	}
	for _, pool := range settings.PoolsEverywhere() {
		layout.Pools = append(layout.Pools, journal.Pool(pool))
	}
	return layout
}

// deployWorker deploys the worker on every cluster, one after the other: one
// that fails does not keep it from the next.
func deployWorker(ctx context.Context, settings config.Config, say func(string)) error {
	clusters, err := settings.Clusters()
	if err != nil {
		return err
	}
	fleet, err := function.Fleet(settings)
	if err != nil {
		return err
	}
	defer fleet.Close()
	var failed []error
	for i, client := range fleet.Clients() { // in the settings' order
		failed = append(failed, deployOn(ctx, client, clusters[i], settings, say))
	}
	return errors.Join(failed...)
}

func deployOn(ctx context.Context, client *ray.Client, cluster config.Cluster, settings config.Config, say func(string)) error {
	pools := make(map[string]int)
	for _, pool := range cluster.Pools {
		pools[pool.Name] = pool.InFlight
	}
	options := ray.Options{
		NATSURL: settings.WorkerNATSURL, Pools: pools, ClusterName: cluster.Name,
		ModelHosts: settings.ModelHosts, Replicas: settings.WorkerReplicas, PIP: settings.WorkerPIP, Progress: say,
	}
	return during(say, "worker: still being deployed", func() error { return ray.Deploy(ctx, client, options) })
}
