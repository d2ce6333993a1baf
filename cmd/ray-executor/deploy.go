package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/ray"
)

func (p program) deployCommand() *cobra.Command {
	var only string
	command := &cobra.Command{
		Use:   "deploy",
		Short: "Make or update the journal, its consumers and the Ray worker",
		Long: `Make or update the journal's streams and consumers on NATS_URL, then the
worker on RAY_ADDRESS; then wait until each of its replicas is heard of over
NATS. It is safe to repeat: what is as it should be is left alone, and so are
other applications of the cluster.`,
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
				return deployWorker(ctx, settings, log, say)
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
	journal, err := connect(settings, "deploy", log)
	if err != nil {
		return err
	}
	defer journal.Close()
	err = during(say, "journal: still being made", func() error { return journal.Deploy(ctx, layoutOf(settings)) })
	if err != nil {
		return err
	}
	say("journal: streams and consumers are in place")
	return nil
}

func layoutOf(settings config.Config) journal.Layout {
	layout := journal.Layout{
		Replicas: settings.JournalReplicas, MaxAge: settings.JournalMaxAge, MaxBytes: settings.JournalMaxBytes, MaxMessages: settings.JournalMaxMessages,
		AgentResponses: settings.AgentResponses, Relay: settings.Sink != "",
	}
	for _, pool := range settings.PoolsEverywhere() {
		layout.Pools = append(layout.Pools, journal.Pool(pool))
	}
	return layout
}

// deployWorker deploys the worker on every cluster, one after the other: one
// that fails does not keep it from the next.
func deployWorker(ctx context.Context, settings config.Config, log *slog.Logger, say func(string)) error {
	clusters, err := settings.Clusters()
	if err != nil {
		return err
	}
	fleet, err := function.Fleet(settings)
	if err != nil {
		return err
	}
	defer fleet.Close()
	journal, err := connect(settings, "deploy", log)
	if err != nil {
		return err
	}
	defer journal.Close()
	var failed []error
	for i, client := range fleet.Clients() { // in the settings' order
		options := workerOn(clusters[i], settings, listening{journal}, say)
		failed = append(failed, during(say, "worker: still being deployed", func() error { return ray.Deploy(ctx, client, options) }))
	}
	return errors.Join(failed...)
}

// listening are the journal's heartbeats for a command that somebody waits for.
type listening struct{ journal *journal.Journal }

// Heartbeats implements ray.Heartbeats; what no waiting mends ends the wait.
func (l listening) Heartbeats(ctx context.Context) (each map[string]deliberation.Heartbeat, kept bool, err error) {
	// It says more of a NATS that is away.
	if err = l.journal.Ready(ctx); err == nil {
		each, kept, err = l.journal.Heartbeats(ctx)
	}
	if journal.Permanent(err) {
		err = backoff.Permanent(err)
	}
	return each, kept, err
}

// workerOn is the worker for a cluster.
func workerOn(cluster config.Cluster, settings config.Config, heartbeats ray.Heartbeats, say func(string)) ray.Options {
	pools := make(map[string]int)
	for _, pool := range cluster.Pools {
		pools[pool.Name] = pool.InFlight
	}
	return ray.Options{
		NATSURL: settings.WorkerNATSURL, NATSPrefix: settings.NATSPrefix, Pools: pools, ClusterName: cluster.Name,
		ModelHosts: settings.ModelHosts, ModelURL: settings.VLLMURL, Replicas: settings.WorkerReplicas, PIP: settings.WorkerPIP,
		Heartbeats: heartbeats, Progress: say,
	}
}
