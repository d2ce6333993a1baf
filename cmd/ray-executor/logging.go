// The format of the log.

package main

import (
	"io"
	"log/slog"

	"rayexecutor/config"
)

// newLogger returns a logger for w. LOG_FORMAT sets the format; its default is
// JSON in a Kubernetes cluster, where programs read the log, and text elsewhere.
func newLogger(w io.Writer, settings config.Config, inCluster bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: settings.LogLevel}
	if settings.LogFormat == "json" || settings.LogFormat == "auto" && inCluster {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
