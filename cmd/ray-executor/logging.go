package main

import (
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
