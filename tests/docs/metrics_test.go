package docs_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"rayexecutor/functions"
	"rayexecutor/journal"
	"rayexecutor/keeper"
	"rayexecutor/tests/system"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

// metricsPage is the file; its table is made of the code's own descriptions.
const metricsPage = "docs/metrics.md"

type metric struct{ name, kind, labels, help, from string }

var described = regexp.MustCompile(`^Desc\{fqName: "(ray_executor_\w+)", help: "(.*?)", (?:unit: ".*?", )?constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// histograms are the metrics whose kind their name does not say.
var histograms = []string{
	"ray_executor_request_duration_seconds", "ray_executor_queue_seconds", "ray_executor_execution_seconds", "ray_executor_agent_seconds",
}

// describe reads the descriptions of collectors; a Desc has no other interface than its text.
func describe(from, labels string, collectors ...prometheus.Collector) (metrics []metric) {
	for _, collector := range collectors {
		descs := make(chan *prometheus.Desc, 100)
		collector.Describe(descs)
		close(descs)
		for desc := range descs {
			found := described.FindStringSubmatch(desc.String())
			if found == nil {
				continue // Go's and the process's own
			}
			kind := "gauge"
			switch {
			case strings.HasSuffix(found[1], "_total"):
				kind = "counter"
			case slices.Contains(histograms, found[1]):
				kind = "histogram"
			}
			all := strings.Trim(labels+","+found[3], ",")
			metrics = append(metrics, metric{found[1], kind, all, found[2], from})
		}
	}
	return metrics
}

// workerMetrics reads the worker's list, which needs no package besides Python's own.
func workerMetrics(t *testing.T) (metrics []metric) {
	t.Helper()
	const list = `import json, runpy, sys
print(json.dumps([[m.name, m.kind, ",".join(m.labels), m.help] for m in runpy.run_path(sys.argv[1])["MEASURES"]]))`
	file := filepath.Join(system.Root(), "ray", "worker", "ray_executor_worker", "metrics.py")
	output, err := exec.CommandContext(t.Context(), "python3", "-c", list, file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var rows [][4]string
	if err := json.Unmarshal(output, &rows); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		metrics = append(metrics, metric{"ray_" + row[0], row[1], row[2], row[3], "worker"})
	}
	return metrics
}

// metrics lists what each part exports.
func metrics(t *testing.T) []metric {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	events, err := journal.Connect(journal.Settings{URL: "nats://127.0.0.1:1", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	all := describe("functions", "", functions.New(functions.Options{Log: log}).Metrics())
	housekeeping := prometheus.NewRegistry()
	keeper.New(nil, log, keeper.WatchClusters(nil, housekeeping), keeper.ExportTotals(housekeeping))
	all = append(all, describe("keeper", "", housekeeping)...)
	all = append(all, describe("both", "part", events.Metrics()...)...)
	all = append(all, workerMetrics(t)...)
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return all
}

func TestMetricsPageIsCurrent(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	for _, from := range []struct{ title, from string }{
		{"Each function server, of its own calls", "functions"},
		{"Each keeper, of the whole installation", "keeper"},
		{"Function servers and keepers, each of its own connection to NATS", "both"},
		{"Each worker replica, at the metrics port of its Ray node", "worker"},
	} {
		fmt.Fprintf(&table, "\n## %s\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", from.title)
		for _, one := range metrics(t) {
			if one.from != from.from {
				continue
			}
			labels := one.labels
			if labels != "" {
				labels = "`" + strings.ReplaceAll(labels, ",", "`, `") + "`"
			}
			fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", one.name, one.kind, labels, one.help)
		}
	}
	page := read(t, metricsPage)
	head, _, found := strings.Cut(page, "<!-- generated -->")
	if !found {
		t.Fatalf("%s has no mark", metricsPage)
	}
	want := head + "<!-- generated -->\n" + table.String()
	if *update {
		if err := os.WriteFile(filepath.Join(system.Root(), metricsPage), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if page != want {
		t.Errorf("%s is stale: go test ./tests/docs -update", metricsPage)
	}
}
