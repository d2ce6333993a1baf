package monitoring_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/standin"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// query is a PromQL expression, and where it is from.
type query struct{ from, expr string }

// TestQueriesOnARealRun scrapes a run of the whole system: deliberations that
// complete, fail, retry and end at their deadline. No query may be without data.
func TestQueriesOnARealRun(t *testing.T) {
	sys := start(t)
	prometheus := scrape(t, sys)
	missing := queries(t)
	limit := time.Now().Add(4 * time.Minute)
	for round := 0; len(missing) > 0; round++ {
		if time.Now().After(limit) {
			for _, one := range missing {
				_, err := prometheus.ask(one.expr)
				t.Errorf("%s: no data: %s (%v)", one.from, one.expr, err)
			}
			t.FailNow()
		}
		deliberate(t, sys, round)
		missing = slices.DeleteFunc(missing, func(one query) bool {
			found, err := prometheus.ask(one.expr)
			return err == nil && found
		})
	}
}

// outside starts what the system calls: a model server and a sink.
func outside(t *testing.T) (modelURL, sinkURL string) {
	t.Helper()
	model, err := standin.New(standin.Options{Logger: slog.New(slog.DiscardHandler), Behaviours: map[string]standin.Behaviour{
		"refuses": {Status: http.StatusBadRequest}, "fails": {Status: http.StatusInternalServerError}, "hangs": {Hang: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- model.Serve(ctx, listener) }()
	t.Cleanup(func() { cancel(); <-ended })
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
	t.Cleanup(sink.Close)
	return "http://" + listener.Addr().String(), sink.URL
}

// start starts the whole system.
func start(t *testing.T) *system.System {
	t.Helper()
	model, sink := outside(t)
	sys := system.Make(t, system.Options{
		ModelURL: model, Model: "echo", RayCPUs: 4, Settings: []string{"K_SINK=" + sink, "MODEL_HOSTS=127.0.0.1"},
	})
	starting, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	for _, step := range []func(context.Context) error{sys.StartJournal, sys.StartRay, sys.StartServer} {
		if err := step(starting); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

// deliberate runs one deliberation of each kind to its end.
func deliberate(t *testing.T, sys *system.System, round int) {
	t.Helper()
	for _, model := range []string{"echo", "refuses", "fails", "hangs"} {
		id := fmt.Sprint(model, "-", round)
		request := &pb.ExecuteDeliberationRequest{
			DeliberationId: id, TaskId: id, TaskDescription: "Decide.", Role: "DEV", Agents: []*pb.Agent{{Id: "a", Model: model}},
			Constraints: &pb.TaskConstraints{TimeoutSeconds: 2, MaxRetries: proto.Int32(1)},
		}
		if err := sys.Call(t.Context(), id, request, &pb.ExecuteDeliberationResponse{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(250 * time.Millisecond) // a load, not a wait: Prometheus scrapes once a second
	}
}

// server is a real Prometheus.
type server struct{ url string }

// scrape starts a Prometheus that scrapes the system once a second.
func scrape(t *testing.T, sys *system.System) server {
	t.Helper()
	dir := t.TempDir()
	rules(t, filepath.Join(dir, "rules.yaml"))
	target, err := url.Parse(sys.URL())
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: serve
    static_configs: [{targets: ['%s']}]
  - job_name: ray
    static_configs: [{targets: ['127.0.0.1:%d']}]
`, target.Host, sys.Ray().MetricsPort())
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	process, err := system.Start(filepath.Join(dir, "prometheus.log"), os.Environ(), tool("prometheus"),
		"--config.file="+filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := process.Terminate(); err != nil {
			t.Errorf("prometheus: %v", err)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "prometheus.log"))
			t.Logf("%s", log[max(0, len(log)-2000):])
		}
	})
	return server{"http://" + address}
}

// get reads an answer of Prometheus' API.
func (s server) get(path string, into any) error {
	response, err := http.Get(s.url + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return json.Unmarshal(body, into)
}

// ask reports whether a query has data: a sample that is a number.
func (s server) ask(expr string) (found bool, err error) {
	var answer struct {
		Data struct {
			Result []struct {
				Value [2]any `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := s.get("/api/v1/query?query="+url.QueryEscape(expr), &answer); err != nil {
		return false, err
	}
	for _, one := range answer.Data.Result {
		if one.Value[1] != "NaN" {
			return true, nil
		}
	}
	return false, nil
}

var (
	comparison = regexp.MustCompile(`(?s)^absent\((.*)\)$`)
	threshold  = regexp.MustCompile(` (?:>|==) [0-9.]+`)
	matcher    = regexp.MustCompile(`(code)=~?"[^"]*"`)
)

// queries are those of all dashboards and alerts.
//
// An alert has no data while all is well: its query is asked without its thresholds,
// and with every code of a call.
func queries(t *testing.T) (all []query) {
	t.Helper()
	for _, one := range rules(t, filepath.Join(t.TempDir(), "rules.yaml")) {
		expr := comparison.ReplaceAllString(one.Expr, "$1")
		for part := range strings.SplitSeq(expr, "\nand\n") {
			for part := range strings.SplitSeq(part, " or ") {
				all = append(all, query{one.Alert, matcher.ReplaceAllString(threshold.ReplaceAllString(part, ""), `$1!=""`)})
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(system.Root(), "deploy/monitoring/dashboards/*.json"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%d dashboards: %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct {
			Panels []struct {
				Title, Description string
				Targets            []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(data, &dashboard); err != nil {
			t.Fatal(err)
		}
		for _, panel := range dashboard.Panels {
			if len(panel.Targets) == 0 || panel.Description == "" {
				t.Errorf("%s: the panel %q has no query, or no description", file, panel.Title)
			}
			for _, target := range panel.Targets {
				expr := strings.NewReplacer("$__rate_interval", "30s", "$__range", "30m").Replace(target.Expr)
				all = append(all, query{panel.Title, expr})
			}
		}
	}
	if len(all) < 40 {
		t.Errorf("only %d queries", len(all))
	}
	return all
}

// TestRunbookCommands runs every command of docs/runbooks.md, while there is no Ray: as
// somebody does who was paged for that. Only what needs a Ray may fail, and says so.
func TestRunbookCommands(t *testing.T) {
	t.Parallel()
	url, sink := outside(t)
	sys := system.Served(t, system.Options{ModelURL: url, Model: "echo", Settings: []string{"K_SINK=" + sink, "MODEL_HOSTS=127.0.0.1"}})
	blocks := regexp.MustCompile("(?s)\n```sh\n(.*?)```\n").FindAllSubmatch(read(t, "docs/runbooks.md"), -1)
	if len(blocks) < 18 {
		t.Errorf("docs/runbooks.md has %d blocks of commands", len(blocks))
	}
	environ := append(sys.Environ(), "RAY_EXECUTOR_SERVER="+sys.URL(), "KEEPER_URL="+sys.URL(),
		"PATH="+filepath.Join(system.Root(), "bin")+":"+filepath.Join(system.Root(), ".tools")+":"+os.Getenv("PATH"))
	commands := map[string]bool{}
	for _, block := range blocks {
		for command := range strings.Lines(string(block[1])) {
			commands[strings.TrimSpace(command)] = true
		}
	}
	for command := range commands {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		output, err := system.Output(ctx, environ, "bash", "-euo", "pipefail", "-c", command)
		cancel()
		switch command {
		case "ray-executor doctor":
			if strings.Count(output, " failed: ") != 1 || !strings.Contains(output, "worker   failed: ") {
				t.Errorf("%s: %v\n%s", command, err, output)
			}
		case "ray-executor deploy --only worker":
			if err == nil || !strings.Contains(output, "connection refused") {
				t.Errorf("%s: %v\n%s", command, err, output)
			}
		default:
			if err != nil || output == "" && !strings.HasSuffix(command, "retry --all") {
				t.Errorf("%s: %v, prints %q", command, err, output)
			}
		}
	}
}
