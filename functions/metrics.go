package functions

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"rayexecutor/deliberation"
)

// metrics count this instance's calls. They have a registry of their own, so that
// several sets of functions can exist in one process, as in tests.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	accepted prometheus.Counter
	inFlight prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ray_executor_requests_total", Help: "Requests by operation and code (ok, or the error's).",
		}, []string{"operation", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ray_executor_request_duration_seconds", Help: "Time from request to reply.",
			// 125 µs to 16 s: below a submit's round trip to NATS, and above the 5 s after
			// which a request to NATS fails, for two of them in a call.
			Buckets: prometheus.ExponentialBuckets(0.000125, 2, 18),
		}, []string{"operation"}),
		accepted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ray_executor_deliberations_accepted_total", Help: "Deliberations that this instance accepted.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ray_executor_requests_in_flight", Help: "Requests that are being answered.",
		}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.accepted, m.inFlight,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// observe counts a request. The labels have few values: the operation is a name of
// ours, or "unknown" if none was found, and the code is one of the table's. A
// caller's text would let a caller create time series.
func (m *metrics) observe(operation string, err error, took time.Duration) {
	if operation == "" {
		operation = "unknown"
	}
	code := "ok"
	if err != nil {
		code = string(deliberation.AsError(err).Code)
	}
	m.requests.WithLabelValues(operation, code).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}

// Metrics returns the registry for a /metrics route. Other parts of the process
// register their own metrics there.
func (f *Functions) Metrics() *prometheus.Registry { return f.metrics.registry }
