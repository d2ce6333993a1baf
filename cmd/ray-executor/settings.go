package main

import (
	"fmt"
	"log/slog"

	"rayexecutor/config"
)

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
