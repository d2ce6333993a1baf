package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper"
	"rayexecutor/keeper/keepertest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// exporting runs a keeper with metrics until the test ends or stop is called.
func (w world) exporting(t *testing.T) (metrics *prometheus.Registry, stop func()) {
	t.Helper()
	metrics = prometheus.NewPedanticRegistry()
	stop = w.keep(t, keepertest.Quiet(), keeper.ExportTotals(metrics, "default", "idle"))
	return metrics, stop
}

// text returns all metrics as Prometheus reads them.
func text(metrics *prometheus.Registry) string {
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
	return answer.Body.String()
}

// line returns the value of a series; empty if there is none.
func line(metrics *prometheus.Registry, series string) string {
	for one := range strings.Lines(text(metrics)) {
		if value, found := strings.CutPrefix(one, series+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func waitForSeries(t *testing.T, metrics *prometheus.Registry, want map[string]string) {
	t.Helper()
	await.NoError(t, "the metrics", func() error {
		for series, value := range want {
			if got := line(metrics, series); got != value {
				return fmt.Errorf("%s is %q, want %q", series, got, value)
			}
		}
		return nil
	})
}

func TestTotalsAreExported(t *testing.T) {
	t.Parallel()
	w := setup(t)
	metrics, stop := w.exporting(t)
	w.Submit(t, "waits", 1, 300)
	w.Submit(t, "runs", 1, 300)
	w.Submit(t, "ends", 1, 300)
	for _, id := range []string{"runs", "ends"} {
		if _, _, err := w.worker.Started(t.Context(), id, 1, time.Time{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	result := journaltest.Result(0, "yes")
	result.Metadata["model"] = "qwen"
	result.Usage = &pb.Usage{PromptTokens: 7, CompletionTokens: 5, CachedTokens: 3, ReasoningTokens: 2, Requests: 1}
	end := &pb.DeliberationCompleted{DeliberationId: "ends", Results: []*pb.DeliberationResult{result}, Usage: result.GetUsage()}
	if won, err := w.End(t.Context(), "ends", end, ""); err != nil || !won {
		t.Fatal(won, err)
	}
	want := map[string]string{
		`ray_executor_deliberations{pool="default",state="queued"}`:    "1",
		`ray_executor_deliberations{pool="default",state="running"}`:   "1",
		`ray_executor_deliberations{pool="idle",state="running"}`:      "0",
		`ray_executor_ended_total{outcome="completed",pool="default"}`: "1",
		`ray_executor_ended_total{outcome="failed",pool="default"}`:    "0",
		`ray_executor_ended_total{outcome="completed",pool="idle"}`:    "0",
		`ray_executor_ended_late_total{pool="default"}`:                "0",
		`ray_executor_oldest_queued_seconds{pool="idle"}`:              "0",
		`ray_executor_queue_seconds_count`:                             "2",
		`ray_executor_execution_seconds_count`:                         "1",
		`ray_executor_execution_seconds_bucket{le="86400"}`:            "1",
		`ray_executor_tokens_total{kind="prompt",model="qwen"}`:        "7",
		`ray_executor_tokens_total{kind="completion",model="qwen"}`:    "5",
		`ray_executor_tokens_total{kind="cached",model="qwen"}`:        "3",
		`ray_executor_tokens_total{kind="reasoning",model="qwen"}`:     "2",
		`ray_executor_model_requests_total{model="qwen"}`:              "1",
		`ray_executor_forgotten_total`:                                 "0",
		`ray_executor_dead`:                                            "0",
		`ray_executor_undelivered`:                                     "0",
	}
	waitForSeries(t, metrics, want)
	// Another keeper counts the same, with or without the snapshot of the first.
	other, _ := w.exporting(t)
	stop()
	waitForSeries(t, other, want)
	for _, series := range []string{
		"ray_executor_journal_bytes", "ray_executor_journal_messages", `ray_executor_oldest_queued_seconds{pool="default"}`,
	} {
		if value := line(other, series); value == "" || value == "0" {
			t.Errorf("%s is %q", series, value)
		}
	}
	if problems, err := promlint.New(strings.NewReader(text(other))).Lint(); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// A counter that begins with 1 shows no increase to Prometheus.
func TestSetAsideBeginsAtZero(t *testing.T) {
	t.Parallel()
	w := setup(t)
	j := w.Connect(t)
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(j.Metrics()...)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = keeper.New(j, keepertest.Quiet()).Run(ctx) }()
	waitForSeries(t, metrics, map[string]string{`ray_executor_ends_set_aside_total{reader="keeper-announce"}`: "0"})
	cancel()
	<-ended
}

// A keeper that starts exports no total below what the one before it exported.
func TestTotalsNeverDecrease(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = 2000
	for i := range n {
		id := fmt.Sprint("d", i)
		w.Submit(t, id, 1, 300)
		w.fail(t, &pb.DeliberationFailed{DeliberationId: id, ErrorMessage: "no"})
	}
	metrics, _ := w.exporting(t)
	const series = `ray_executor_ended_total{outcome="failed",pool="default"}`
	await.NoError(t, "the total", func() error {
		switch got := line(metrics, series); got {
		case "":
			return errors.New("not exported yet")
		case fmt.Sprint(n):
			return nil
		default:
			t.Fatalf("the total is %s while the keeper catches up, want none or %d", got, n)
			return nil
		}
	})
}

func TestFillCountsWhatWaitsForAPerson(t *testing.T) {
	t.Parallel()
	w := setup(t)
	if err := w.PrepareRelay(t.Context(), journaltest.Layout()); err != nil {
		t.Fatal(err)
	}
	var fill journal.Fill
	wantFill := func(dead, undelivered int64) {
		t.Helper()
		var err error
		if fill, err = w.Fill(t.Context(), fill); err != nil || fill.Dead != dead || fill.Undelivered != undelivered {
			t.Errorf("got %+v, %v; want %d dead, %d undelivered", fill, err, dead, undelivered)
		}
	}
	wantFill(0, 0)
	for i := range 3 {
		id := fmt.Sprint("d", i)
		failed := &pb.DeliberationFailed{DeliberationId: id, GivenUp: true, ErrorMessage: strings.Repeat("x", 200_000)} // two parts
		history := &deliberation.History{Requested: journaltest.Record(id, 1, 300), State: deliberation.Failed, Reason: failed.GetErrorMessage()}
		if err := w.StoreDeadLetter(t.Context(), history); err != nil {
			t.Fatal(err)
		}
		if err := w.StoreUndelivered(t.Context(), journal.Delivery{Entry: deliberation.Entry{Event: failed}}, "no"); err != nil {
			t.Fatal(err)
		}
	}
	wantFill(3, 3)
	wantFill(3, 3)
	if err := w.DeleteDeadLetter(t.Context(), "d1"); err != nil {
		t.Fatal(err)
	}
	wantFill(2, 3)
	for _, id := range []string{"d0", "d2"} {
		if err := w.DeleteDeadLetter(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	wantFill(0, 3)
}
