// The HTTP server of serve, keeper and broker-dead-letters: its limits, and its
// place in a group of actors.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rayexecutor/config"
	"rayexecutor/gate"
)

const (
	// drainTimeout bounds the requests in flight after SIGTERM. Kubernetes kills
	// the process after 30 s.
	drainTimeout = 25 * time.Second
	// bodyTimeout bounds the time from a request's headers to the end of its body.
	bodyTimeout = 30 * time.Second
	// responseTimeout bounds the time from a request's headers to the end of its
	// response. The gate lifts both limits for streams.
	responseTimeout = time.Minute
	maxHeaders      = 64 << 10
)

// newServer returns a server for HTTP/1.1 and unencrypted HTTP/2. Its limits
// bound what one slow or silent client can occupy.
func newServer(handler http.Handler) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: &protocols,
		IdleTimeout: 2 * time.Minute, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: bodyTimeout, WriteTimeout: responseTimeout,
		MaxHeaderBytes: maxHeaders,
		ConnState:      gate.NewConnections(gate.ForProcess().Connections).Track,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 100, MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 64 << 10,
			SendPingTimeout: time.Minute, PingTimeout: 15 * time.Second, WriteByteTimeout: responseTimeout,
		},
	}
}

// alive answers 200 to a liveness probe: the process runs.
func alive(http.ResponseWriter, *http.Request) {}

// addTask adds an actor that runs until it fails or the group ends. The first
// actor that ends, ends the group.
func addTask(ctx context.Context, group *run.Group, task func(context.Context) error) {
	ctx, cancel := context.WithCancel(ctx)
	group.Add(func() error { return task(ctx) }, func(error) { cancel() })
}

// addServer adds an actor that serves on a listener. One server may serve on
// several listeners: Shutdown closes all of them, and is safe to repeat.
func addServer(group *run.Group, server *http.Server, listener net.Listener, force <-chan struct{}) {
	group.Add(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	}, func(error) { shutdown(server, force) })
}

// addMetricsServer adds an actor that serves /metrics on METRICS_PORT, where no
// credentials are asked for.
func addMetricsServer(ctx context.Context, group *run.Group, settings config.Config, metrics prometheus.Gatherer, force <-chan struct{}) error {
	listeners, err := portSetting{"METRICS_PORT", settings.MetricsPort}.listen(ctx, settings.BareHost)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	server := newServer(mux)
	for _, listener := range listeners {
		addServer(group, server, listener, force)
	}
	return nil
}

// shutdown closes the listeners and waits for the requests in flight: until
// drainTimeout, or until force is closed. Then it closes their connections.
func shutdown(server *http.Server, force <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	ctx, stop := untilForced(ctx, force)
	defer stop()
	if err := server.Shutdown(ctx); err != nil {
		_ = server.Close() // the requests have had their time
	}
}
