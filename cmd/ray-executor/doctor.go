// ray-executor doctor checks the parts that a deliberation needs: the function
// server, the journal, the worker and the model.

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

	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/journal"
	pb "rayexecutor/proto/ray_executor/v1"
)

// checkTimeout bounds each check.
const checkTimeout = 10 * time.Second

// errUnhealthy makes doctor exit with 1. The checks have printed the faults.
var errUnhealthy = errors.New("at least one check failed; its line says what to do")

// check is one check of doctor. It returns what it found, or what is wrong.
type check struct {
	name string
	run  func(context.Context) (found string, err error)
	// remedy is for an error that has no advice of its own.
	remedy string
}

// finding is the outcome of a check, for -o json.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Found  string `json:"found,omitempty"`
	Reason string `json:"reason,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// advised is an error with what to do about it.
type advised struct {
	error
	remedy string
}

// Error implements error with the advice.
func (a *advised) Error() string { return a.error.Error() + ": " + a.remedy }

// Unwrap returns the error without the advice.
func (a *advised) Unwrap() error { return a.error }

// findingOf describes an outcome. The reason of a single fault is without its
// advice; that of several has the advice of each.
func (c check) findingOf(found string, err error) finding {
	if err == nil {
		return finding{Check: c.name, OK: true, Found: found}
	}
	one := finding{Check: c.name, Reason: err.Error(), Remedy: c.remedy}
	if fault, ok := errors.AsType[*advised](err); ok {
		one.Remedy = fault.remedy
		one.Reason = strings.TrimSuffix(one.Reason, ": "+fault.remedy)
	}
	return one
}

func (p program) doctorCommand() *cobra.Command {
	var (
		server string
		output format
	)
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check the server, the journal, the worker and the model",
		Long: `Check the function server, the journal on NATS, the worker on each Ray cluster and
the model server. The command prints a line for each: ok and what was found, or
failed, the reason and what to do. It exits with 1 if a check failed. With -o json
each line has check, ok, found, reason and remedy.`,
		Example: `  ray-executor doctor
  ray-executor doctor -o json
  NATS_URL=nats://nats:4222 ray-executor doctor --server http://ray-executor:8080`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			settings, log, err := p.loadWithDev()
			if err != nil {
				return err
			}
			return runChecks(command.Context(), p.out, output, []check{
				{"server", func(ctx context.Context) (string, error) { return checkServer(ctx, p.serverURL(server)) }, "read the server's log, and the line of the journal"},
				{"journal", func(ctx context.Context) (string, error) { return checkJournal(ctx, settings, log) }, "start NATS or correct NATS_URL, then run `ray-executor deploy --only journal`"},
				{"worker", func(ctx context.Context) (string, error) { return checkWorker(ctx, settings, log) }, "start the Ray cluster or correct RAY_ADDRESS, then run `ray-executor deploy --only worker`"},
				{"model", func(ctx context.Context) (string, error) { return checkModel(ctx, settings) }, "start the model server, or correct VLLM_URL"},
			})
		},
	}
	command.Flags().StringVar(&server, "server", "", serverUsage)
	addFormat(command, &output)
	return command
}

// runChecks runs every check, also after one that failed.
func runChecks(ctx context.Context, out io.Writer, output format, checks []check) error {
	healthy, printer := true, printer{w: out, format: output}
	for _, check := range checks {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		found, err := check.run(ctx)
		cancel()
		healthy = healthy && err == nil
		switch {
		case output != "text":
			if err := printer.encode(check.findingOf(found, err)); err != nil {
				return err
			}
		case err != nil:
			fmt.Fprintf(terminal{out}, "%-8s failed: %v\n", check.name, err)
		default:
			fmt.Fprintf(terminal{out}, "%-8s ok: %s\n", check.name, found)
		}
	}
	if !healthy {
		return errUnhealthy
	}
	return nil
}

// checkServer asks the server itself, which knows whether it reaches its NATS.
func checkServer(ctx context.Context, server string) (string, error) {
	url := strings.TrimRight(server, "/") + "/health/readiness"
	status, body, err := get(ctx, http.DefaultClient, url)
	if err != nil {
		return "", &advised{err, "start the server with `ray-executor serve`, or name another one with --server"}
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("%s is not ready: %s", server, body)
	}
	return server + " is ready", nil
}

func checkJournal(ctx context.Context, settings config.Config, log *slog.Logger) (string, error) {
	j, err := connectDoctor(settings, log)
	if err != nil {
		return "", err
	}
	defer j.Close()
	return "NATS has the stream " + settings.NATSPrefix + journal.Stream, awaitReady(ctx, j)
}

// awaitReady waits for the connection, which is made in the background. An error
// that no waiting resolves ends the wait.
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

// checkWorker reads from Ray which replicas run, and from NATS their heartbeats
// and problems. Without NATS it reports what Ray says.
func checkWorker(ctx context.Context, settings config.Config, log *slog.Logger) (string, error) {
	journal, err := connectDoctor(settings, log)
	if err != nil {
		return "", err
	}
	defer journal.Close()
	fleet, err := connectFleet(settings, journal)
	if err != nil {
		return "", err
	}
	defer fleet.Close()
	waiting, cancel := context.WithTimeout(ctx, doctorWait)
	defer cancel()
	_ = awaitReady(waiting, journal) // checkJournal reports this error
	var found []string
	var failed []error
	for _, cluster := range fleet.Clusters(ctx) {
		if err := workerFault(cluster); err != nil {
			failed = append(failed, err)
			continue
		}
		found = append(found, describeWorker(cluster))
	}
	return strings.Join(found, "; "), errors.Join(failed...)
}

// workerFault is what is wrong with a cluster's worker, or nil.
func workerFault(cluster *pb.Cluster) error {
	if !cluster.GetReachable() {
		return errors.New(cluster.GetError())
	}
	if cluster.GetWorkerReplicas() == 0 {
		return fmt.Errorf("%s runs no worker replica: run `ray-executor deploy`; %s", cluster.GetAddress(), cluster.GetError())
	}
	var problems []error
	for _, problem := range cluster.GetProblems() {
		problems = append(problems, fmt.Errorf("cluster %s: %s", cluster.GetName(), problem))
	}
	return errors.Join(problems...)
}

func describeWorker(cluster *pb.Cluster) string {
	found := fmt.Sprintf("%d replicas on Ray %s at %s", cluster.GetWorkerReplicas(), cluster.GetRayVersion(), cluster.GetAddress())
	if cluster.WorkerHeartbeats == nil {
		return found + "; heartbeats unknown: NATS_URL is not reachable from here, or the worker or the journal has an older version"
	}
	return fmt.Sprintf("%s, %d with a heartbeat over NATS, the latest %.0f s ago", found, cluster.GetWorkerHeartbeats(), cluster.GetHeartbeatAgeSeconds())
}

// direct uses no proxy, as the workers use none for their models.
var direct = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// checkModel asks the model server from this machine. The workers may reach it
// by another route.
func checkModel(ctx context.Context, settings config.Config) (string, error) {
	if settings.VLLMURL == "" {
		return "VLLM_URL is not set: each request must name its model server", nil
	}
	status, body, err := get(ctx, direct, deliberation.ModelBase(settings.VLLMURL)+"/v1/models")
	switch {
	case err != nil:
		return "", &advised{fmt.Errorf("VLLM_URL: %w", err), "start the model server, or correct the URL"}
	case status == http.StatusUnauthorized:
		return settings.VLLMURL + " answers and requires a key: set VLLM_API_KEY on the Ray nodes", nil
	case status != http.StatusOK:
		return "", &advised{fmt.Errorf("VLLM_URL: %s answered %d: %s", settings.VLLMURL, status, body), "name an OpenAI-compatible server"}
	}
	return settings.VLLMURL + " answers", nil
}

// get reads at most 500 bytes of a response.
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
