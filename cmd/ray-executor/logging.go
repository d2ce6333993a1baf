package main

import (
	"fmt"
	"io"
	"log/slog"

	"rayexecutor/config"
)

// newLogger returns the log: JSON in a cluster, text elsewhere, unless
// LOG_FORMAT says which.
func newLogger(w io.Writer, settings config.Config, inCluster bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: settings.LogLevel}
	if settings.LogFormat == "json" || settings.LogFormat == "auto" && inCluster {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// inCluster reports whether Kubernetes started this process.
func inCluster(given map[string]string) bool {
	return given["KUBERNETES_SERVICE_HOST"] != ""
}

// load reads the settings and makes the log that they ask for.
func (p program) load() (config.Config, *slog.Logger, error) {
	given, err := config.Given(p.environ)
	if err != nil {
		return config.Config{}, nil, err
	}
	return p.parse(given)
}

// loadBeside is load for commands that speak to NATS or Ray: where nobody says
// where these are and a dev runs in this folder, it is dev's that are meant.
func (p program) loadBeside() (config.Config, *slog.Logger, error) {
	given, err := config.Given(p.environ)
	if err != nil {
		return config.Config{}, nil, err
	}
	if beside(given) {
		fmt.Fprintf(p.errors, "with the settings of the dev that runs here, in %s\n", devData)
	}
	return p.parse(given)
}

func (p program) parse(given map[string]string) (config.Config, *slog.Logger, error) {
	cluster := inCluster(given)
	settings, err := config.Parse(given)
	if err != nil {
		return config.Config{}, nil, err
	}
	return settings, newLogger(p.errors, settings, cluster), nil
}
