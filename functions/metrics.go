package functions

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"rayexecutor/deliberation"
)

// metrics are what an operator watches, in a registry of their own.
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
			Buckets: prometheus.ExponentialBuckets(0.000125, 2, 18), // 125 µs to 16 s
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

// observe counts a request; an operation that was not found has no name.
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

// Metrics are the functions' metrics, for a /metrics route; what runs along adds
// its own.
func (f *Functions) Metrics() *prometheus.Registry { return f.metrics.registry }
