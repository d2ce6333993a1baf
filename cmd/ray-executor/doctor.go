package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

// errUnhealthy makes doctor exit with 1; what is amiss has been said.
var errUnhealthy = errors.New("something is amiss; each line above says what to do")

// check is one thing that doctor looks at; it returns what it found.
type check struct {
	name string
	look func(context.Context) (found string, err error)
}

func (p program) doctorCommand() *cobra.Command {
	var server string
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that a deliberation needs, and say what is amiss",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadBeside()
			if err != nil {
				return err
			}
			checks := []check{
				{"server", func(ctx context.Context) (string, error) { return checkServer(ctx, serverURL(server)) }},
				{"journal", func(ctx context.Context) (string, error) {
					j, err := examined(settings, log)
					if err != nil {
						return "", err
					}
					defer j.Close()
					return "NATS and the stream " + settings.NATSPrefix + journal.Stream + " are there", awaitReady(ctx, j)
				}},
				{"worker", func(ctx context.Context) (string, error) { return checkWorker(ctx, settings, log) }},
				{"model", func(ctx context.Context) (string, error) { return checkModel(ctx, settings) }},
			}
			return examine(command.Context(), p.out, checks)
		},
	}
	command.Flags().StringVar(&server, "server", "", serverUsage)
	return command
}

func examine(ctx context.Context, out io.Writer, checks []check) error {
	healthy := true
	for _, check := range checks {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		found, err := check.look(ctx)
		cancel()
		if err != nil {
			healthy = false
			fmt.Fprintf(out, "%-8s amiss: %v\n", check.name, err)
			continue
		}
		fmt.Fprintf(out, "%-8s ok: %s\n", check.name, found)
	}
	if !healthy {
		return errUnhealthy
	}
	return nil
}

// heartbeatsWithin is how long the worker's check waits for NATS.
const heartbeatsWithin = 3 * time.Second

// examined is the journal as doctor connects to it.
func examined(settings config.Config, log *slog.Logger) (*journal.Journal, error) {
	reached := function.NATS(settings, "doctor", log)
	reached.Wait = 3 * time.Second
	return journal.Connect(reached)
}

// awaitReady gives the connection a moment to come about.
func awaitReady(ctx context.Context, j *journal.Journal) error {
	for {
		err := j.Ready(ctx)
		if err == nil || ctx.Err() != nil || journal.Permanent(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func checkServer(ctx context.Context, server string) (string, error) {
	url := strings.TrimRight(server, "/") + "/health/readiness"
	status, body, err := get(ctx, http.DefaultClient, url)
	if err != nil {
		return "", fmt.Errorf("%w; start it with `ray-executor serve`, or name it with --server", err)
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("%s is not ready: %s", server, body)
	}
	return server + " is ready", nil
}

// checkWorker asks Ray for the worker, and NATS for what its replicas say.
func checkWorker(ctx context.Context, settings config.Config, log *slog.Logger) (string, error) {
	fleet, err := function.Fleet(settings)
	if err != nil {
		return "", err
	}
	defer fleet.Close()
	journal, err := examined(settings, log)
	if err != nil {
		return "", err
	}
	defer journal.Close()
	fleet.Hear(journal)
	waiting, cancel := context.WithTimeout(ctx, heartbeatsWithin)
	defer cancel()
	_ = awaitReady(waiting, journal) // the journal's own check says why it is not
	var found []string
	var amiss []error
	for _, cluster := range fleet.Clusters(ctx) {
		switch {
		case !cluster.GetReachable():
			amiss = append(amiss, errors.New(cluster.GetError()))
		case cluster.GetWorkerReplicas() == 0:
			amiss = append(amiss, fmt.Errorf("no worker replica runs on %s: run `ray-executor deploy`; %s", cluster.GetAddress(), cluster.GetError()))
		case len(cluster.GetProblems()) > 0:
			for _, problem := range cluster.GetProblems() {
				amiss = append(amiss, fmt.Errorf("cluster %s: %s", cluster.GetName(), problem))
			}
		default:
			found = append(found, workerFound(cluster))
		}
	}
	return strings.Join(found, "; "), errors.Join(amiss...)
}

// workerFound is a worker that is as it should be, in words.
func workerFound(cluster *pb.Cluster) string {
	found := fmt.Sprintf("%d replicas on Ray %s at %s", cluster.GetWorkerReplicas(), cluster.GetRayVersion(), cluster.GetAddress())
	if cluster.WorkerHeartbeats == nil {
		return found + "; whether they reach NATS is not known: the worker or the journal is of an older version, or NATS_URL cannot be reached from here"
	}
	return fmt.Sprintf("%s, %d of them heard over NATS, the last %.0f s ago", found, cluster.GetWorkerHeartbeats(), cluster.GetHeartbeatAgeSeconds())
}

// direct asks without a proxy, as the workers ask their models.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func checkModel(ctx context.Context, settings config.Config) (string, error) {
	if settings.VLLMURL == "" {
		return "VLLM_URL is not set: each request must name its model server", nil
	}
	status, body, err := get(ctx, direct, deliberation.ModelBase(settings.VLLMURL)+"/v1/models")
	switch {
	case err != nil:
		return "", fmt.Errorf("VLLM_URL: %w", err)
	case status == http.StatusUnauthorized:
		return settings.VLLMURL + " is there and wants a key: set VLLM_API_KEY on the Ray nodes", nil
	case status != http.StatusOK:
		return "", fmt.Errorf("VLLM_URL: %s answered %d: %s", settings.VLLMURL, status, body)
	}
	return settings.VLLMURL + " answers", nil
}

func get(ctx context.Context, client *http.Client, url string) (status int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 500))
	return response.StatusCode, strings.TrimSpace(string(data)), err
}
