// Where a command's settings come from: the environment and ray-executor.env,
// then the dev that runs in this folder.

package main

import (
	"fmt"
	"log/slog"

	"rayexecutor/config"
)

// load reads the settings, and returns the logger that they ask for.
func (p program) load() (config.Config, *slog.Logger, error) {
	given, err := config.Given(p.environ)
	if err != nil {
		return config.Config{}, nil, &exitError{exitUsage, err}
	}
	return p.parse(given)
}

// loadWithDev is load for commands that connect to NATS or Ray. If a dev runs in
// the working directory and no setting names other servers, its settings apply.
func (p program) loadWithDev() (config.Config, *slog.Logger, error) {
	given, err := config.Given(p.environ)
	if err != nil {
		return config.Config{}, nil, &exitError{exitUsage, err}
	}
	if addDevSettings(given) {
		fmt.Fprintf(p.errors, "using the settings of the dev that runs in this folder (%s)\n", devData)
	}
	return p.parse(given)
}

func (p program) parse(given map[string]string) (config.Config, *slog.Logger, error) {
	settings, err := config.Parse(given)
	if err != nil {
		return config.Config{}, nil, &exitError{exitUsage, err}
	}
	return settings, newLogger(p.errors, settings, inCluster(given)), nil
}

// inCluster reports whether Kubernetes started this process.
func inCluster(given map[string]string) bool {
	return given["KUBERNETES_SERVICE_HOST"] != ""
}
