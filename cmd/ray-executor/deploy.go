// ray-executor deploy creates or updates what the service needs: the streams
// and consumers on NATS, and the worker on each Ray cluster.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/ray"
)

// deployTimeout bounds a whole deploy. Ray may have to start first.
const deployTimeout = 5 * time.Minute

func (p program) deployCommand() *cobra.Command {
	var only string
	command := &cobra.Command{
		Use:   "deploy",
		Short: "Create or update the journal, its consumers and the Ray worker",
		Long: `Create or update the journal's streams and consumers on NATS_URL, then the worker
on RAY_ADDRESS; then wait for a heartbeat of each worker replica over NATS.
The command is safe to repeat: it changes only what differs, and no other
application of the cluster.`,
		Example: `  NATS_URL=nats://nats:4222 RAY_ADDRESS=http://ray-head:8265 ray-executor deploy
  ray-executor deploy --only journal`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if only != "" && only != "journal" && only != "worker" {
				return usagef("--only=%s: must be journal or worker", only)
			}
			return nil
		},
		RunE: func(command *cobra.Command, _ []string) error { return p.deploy(command.Context(), only) },
	}
	command.Flags().StringVar(&only, "only", "", "deploy only this `PART`: journal or worker (default: both)")
	return command
}

func (p program) deploy(ctx context.Context, only string) error {
	settings, log, err := p.loadWithDev()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deployTimeout)
	defer cancel()
	report := func(line string) { fmt.Fprintln(p.out, line) }
	if only != "worker" {
		if err := deployJournal(ctx, settings, log, report); err != nil {
			return err
		}
	}
	if only != "journal" {
		return deployWorker(ctx, settings, log, report)
	}
	return nil
}

// deployJournal creates or updates the journal. Repeating it is safe, also while
// everything runs.
func deployJournal(ctx context.Context, settings config.Config, log *slog.Logger, report func(string)) error {
	journal, err := connectJournal(settings, "deploy", log)
	if err != nil {
		return err
	}
	defer journal.Close()
	err = during(report, "journal: creating streams and consumers", func() error { return journal.Deploy(ctx, layoutOf(settings)) })
	if err != nil {
		return err
	}
	report("journal: streams and consumers are ready")
	return nil
}

// deployWorker deploys the worker on every cluster, one after the other. It
// continues after a cluster that fails, and returns all errors.
func deployWorker(ctx context.Context, settings config.Config, log *slog.Logger, report func(string)) error {
	clusters, err := settings.Clusters()
	if err != nil {
		return err
	}
	journal, err := connectJournal(settings, "deploy", log)
	if err != nil {
		return err
	}
	defer journal.Close()
	heartbeats := failingHeartbeats{journal}
	fleet, err := connectFleet(settings, heartbeats)
	if err != nil {
		return err
	}
	defer fleet.Close()
	var failed []error
	for i, client := range fleet.Clients() { // in the order of the settings
		options := workerOptions(clusters[i], settings, heartbeats, report)
		failed = append(failed, during(report, "worker: deploying", func() error { return ray.Deploy(ctx, client, options) }))
	}
	return errors.Join(failed...)
}

// failingHeartbeats reads heartbeats for a command with a user who waits. An
// error that no waiting resolves, such as a refused login, ends the wait.
type failingHeartbeats struct{ journal *journal.Journal }

// Heartbeats implements ray.Heartbeats.
func (h failingHeartbeats) Heartbeats(ctx context.Context) (each map[string]deliberation.Heartbeat, stored bool, err error) {
	// Ready explains an unreachable NATS better than a failed read does.
	if err = h.journal.Ready(ctx); err == nil {
		each, stored, err = h.journal.Heartbeats(ctx)
	}
	if journal.Permanent(err) {
		err = backoff.Permanent(err)
	}
	return each, stored, err
}

// workerOptions returns how to deploy the worker on a cluster.
func workerOptions(cluster config.Cluster, settings config.Config, heartbeats ray.Heartbeats, report func(string)) ray.Options {
	pools := make(map[string]int)
	for _, pool := range cluster.Pools {
		pools[pool.Name] = pool.InFlight
	}
	return ray.Options{
		NATSURL: settings.WorkerNATSURL, NATSPrefix: settings.NATSPrefix, Pools: pools, ClusterName: cluster.Name,
		ModelHosts: settings.ModelHosts, ModelURL: settings.VLLMURL, Replicas: settings.WorkerReplicas, PIP: settings.WorkerPIP,
		Heartbeats: heartbeats, Progress: report,
	}
}
