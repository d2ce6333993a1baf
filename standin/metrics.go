package standin

import (
	"maps"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// engine is the label that vLLM gives its only engine.
const engine = "0"

// byModel are the labels that all have.
var byModel = []string{"engine", "model_name"}

// vLLM's metrics, with its own words.
var (
	runningDesc = prometheus.NewDesc("vllm:num_requests_running",
		"Number of requests in model execution batches.", byModel, nil)
	waitingDesc = prometheus.NewDesc("vllm:num_requests_waiting",
		"Number of requests waiting to be processed.", byModel, nil)
	successDesc = prometheus.NewDesc("vllm:request_success_total",
		"Count of successfully processed requests.", append([]string{"finished_reason"}, byModel...), nil)
)

// collector exports the record under the names of vLLM's metrics.
type collector struct{ record *record }

// Describe implements [prometheus.Collector].
func (collector) Describe(descs chan<- *prometheus.Desc) {
	descs <- runningDesc
	descs <- waitingDesc
	descs <- successDesc
}

// Collect implements [prometheus.Collector]. The stand-in runs every request,
// so nothing ever waits.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	running, finished := c.record.gauges()
	for model, count := range running {
		//nolint:promlinter // vLLM's names
		metrics <- prometheus.MustNewConstMetric(runningDesc, prometheus.GaugeValue, float64(count), engine, model)
		//nolint:promlinter // vLLM's names
		metrics <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, 0, engine, model)
	}
	for key, count := range finished {
		//nolint:promlinter // vLLM's names
		metrics <- prometheus.MustNewConstMetric(successDesc, prometheus.CounterValue, float64(count), key.reason, engine, key.model)
	}
}

// running is how many requests of a model run, the caller's among them.
func (r *record) running(model string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if counts, ok := r.models[model]; ok {
		return counts.Running
	}
	return 0
}

// gauges are the running requests by model, and the successes so far.
func (r *record) gauges() (map[string]int, map[finish]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	running := make(map[string]int, len(r.models))
	for model, counts := range r.models {
		running[model] = counts.Running
	}
	finished := make(map[finish]uint64, len(r.finished))
	maps.Copy(finished, r.finished)
	return running, finished
}

func metricsHandler(r *record) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{r})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
