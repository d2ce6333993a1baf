package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
)

// setup serves on a real journal, without a Ray, and returns how to call it.
func setup(t *testing.T) (call func(args ...string) (string, error), nats *journaltest.Server) {
	t.Helper()
	nats = journaltest.Start(t)
	environ := []string{
		"NATS_URL=" + nats.URL, "RAY_ADDRESS=http://127.0.0.1:9", "VLLM_URL=http://127.0.0.1:9", "VLLM_MODEL=none", "LOG_LEVEL=ERROR",
	}
	if printed, err := runProgram(t.Context(), environ, "deploy", "--only", "journal"); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	url, _ := startServer(t, append(environ, "PORT=0", "GRPC_PORT=0"))
	return func(args ...string) (string, error) {
		return runProgram(t.Context(), environ, append(args, "--server", url)...)
	}, nats
}

// startServer serves until stop is called, or to the end of the test.
func startServer(t *testing.T, environ []string) (url string, stop func()) {
	t.Helper()
	server := program{environ: environ, out: t.Output(), errors: t.Output()}
	settings, log, err := server.load()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	open, err := openListeners(ctx, settings)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, settings, log, open, nil) }()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	url = open.url()
	if err := awaitServer(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	return url, stop
}

func runProgram(ctx context.Context, environ []string, args ...string) (string, error) {
	var printed bytes.Buffer
	err := program{args: args, environ: environ, out: &printed, errors: &printed}.run(ctx)
	return printed.String(), err
}

// expect runs a command that must succeed and print some words.
func expect(t *testing.T, call func(...string) (string, error), words string, args ...string) {
	t.Helper()
	printed, err := call(args...)
	if err != nil || !strings.Contains(printed, words) {
		t.Errorf("%v: %v, printed %q, which lacks %q", args, err, printed, words)
	}
}

// awaitPrinted repeats a command until it prints some words: the keeper changes
// what it reads in its own time.
func awaitPrinted(t *testing.T, call func(...string) (string, error), words string, args ...string) {
	t.Helper()
	await.NoError(t, strings.Join(args, " "), func() error {
		printed, err := call(args...)
		if err != nil || !strings.Contains(printed, words) {
			return fmt.Errorf("printed %q, which lacks %q: %w", printed, words, err)
		}
		return nil
	})
}

func TestClient(t *testing.T) {
	t.Parallel()
	call, _ := setup(t)
	expect(t, call, "mine submitted", "submit", "Describe it", "--id", "mine", "--agent", "a=big", "--timeout", "60", "--retries", "0")
	expect(t, call, "mine queued", "status", "mine")
	expect(t, call, "sampled submitted", "submit", "Describe it", "--id", "sampled", "--temperature", "0", "--max-tokens", "9", "--seed", "7", "--stop", "END", "--system", "You are brief.")
	schema := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(schema, []byte(`{"type": "strnig"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := call("submit", "Describe it", "--schema", schema); err == nil || !strings.Contains(err.Error(), "response_format.json_schema") {
		t.Errorf("a schema of no type: %v", err)
	}
	if _, err := call("submit", "Describe it", "--temperature", "3"); err == nil || !strings.Contains(err.Error(), "sampling.temperature") {
		t.Errorf("a temperature of 3: %v", err)
	}
	expect(t, call, "sampled cancelled", "cancel", "sampled")
	expect(t, call, "mine cancelled: is cancelled", "cancel", "mine", "--reason", "enough")
	expect(t, call, "enough", "status", "mine")
	expect(t, call, "mine cancelled: is cancelled", "cancel", "mine")
	expect(t, call, "2 total, 0 active (0 queued), 0 completed, 0 failed, 2 cancelled", "stats")

	printed, err := call("watch", "mine")
	if err == nil || !strings.Contains(printed, "cancelled after") {
		t.Errorf("watching a cancelled one: %v, printed %q", err, printed)
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	call, _ := setup(t)
	for _, id := range []string{"one", "two", "three"} {
		expect(t, call, id, "submit", "Describe it", "--id", id, "--task-id", "task-"+id)
	}
	expect(t, call, "next page: --page-token", "list", "--page-size", "2")
	expect(t, call, "task-two", "list", "--task-id", "task-two", "--state", "queued")
	expect(t, call, "labelled", "submit", "Describe it", "--id", "labelled", "-l", "team=a", "--label", "run=1=2")
	expect(t, call, "labelled", "list", "-l", "run=1=2", "-l", "team=a")
	if printed, err := call("list", "-l", "team=b"); err != nil || strings.Contains(printed, "labelled") {
		t.Errorf("another label: %v, printed %q", err, printed)
	}
	printed, err := call("list", "-o", "json")
	var list struct {
		Deliberations []struct {
			ID string `json:"deliberation_id"`
		} `json:"deliberations"`
	}
	if err := json.Unmarshal([]byte(printed), &list); err != nil {
		t.Fatalf("%v: %s", err, printed)
	}
	if err != nil || len(list.Deliberations) != 4 || list.Deliberations[1].ID != "three" {
		t.Errorf("%v, listed %+v", err, list)
	}
}

func TestSubmitAFile(t *testing.T) {
	t.Parallel()
	call, _ := setup(t)
	file := filepath.Join(t.TempDir(), "request.json")
	text := `{"task_id": "t", "task_description": "d", "role": "DEV", "agents": [{"id": "a"}], "deliberation_id": "filed"}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, call, "filed submitted", "submit", "--file", file)
	if err := os.WriteFile(file, []byte(`{"task": "t"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := call("submit", "--file", file); err == nil || !strings.Contains(err.Error(), `"task"`) {
		t.Errorf("a misspelt field: %v", err)
	}
}

func TestRefusalsAreTold(t *testing.T) {
	t.Parallel()
	call, _ := setup(t)
	for words, args := range map[string][]string{
		"pool":             {"submit", "Describe it", "--pool", "nowhere"},
		"task_description": {"submit"},
		"json or yaml":     {"stats", "-o", "toml"},
		"journal or work":  {"deploy", "--only", "nothing"},
	} {
		if _, err := call(args...); args[0] != "deploy" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%v: %v, which lacks %q", args, err, words)
		}
	}
	if _, err := runProgram(t.Context(), nil, "deploy", "--only", "nothing"); err == nil || !strings.Contains(err.Error(), "journal or worker") {
		t.Errorf("deploy --only nothing: %v", err)
	}
	if _, err := runProgram(t.Context(), nil, "stats", "--server", "http://127.0.0.1:9"); err == nil || !strings.Contains(err.Error(), "start the server, or name another one") {
		t.Errorf("without a server: %v", err)
	}
}

func TestDoctorReportsFaults(t *testing.T) {
	t.Parallel()
	call, _ := setup(t)
	printed, err := call("doctor")
	if err == nil {
		t.Error("doctor reports no fault without a Ray and a model")
	}
	for _, want := range []string{"server   ok", "journal  ok", "worker   failed", "model    failed"} {
		if !strings.Contains(printed, want) {
			t.Errorf("doctor does not print %q:\n%s", want, printed)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"dev", "serve", "keeper", "dead", "broker-dead-letters", "dead-letters", "deploy", "model", "submit", "status", "watch", "cancel", "list", "stats", "doctor"} {
		printed, err := runProgram(t.Context(), nil, command, "--help")
		if err != nil || !strings.Contains(printed, "Usage:") {
			t.Errorf("%s --help: %v, %q", command, err, printed)
		}
	}
}

// The keeper alone announces what ends, and ends on a signal.
func TestKeeperAlone(t *testing.T) {
	t.Parallel()
	nats := journaltest.Start(t)
	port := strconv.Itoa(freeport.For(t))
	environ := []string{"NATS_URL=" + nats.URL, "PORT=" + port, "RAY_ADDRESS=http://127.0.0.1:9", "LOG_LEVEL=ERROR"}
	if printed, err := runProgram(t.Context(), environ, "deploy", "--only", "journal"); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	conn, _ := journaltest.Dial(t, nats.URL)
	heard, err := conn.SubscribeSync("orchestration.deliberation.cancelled")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := runProgram(ctx, environ, "keeper")
		ended <- err
	}()
	writer := journaltest.Connect(t, nats.URL)
	if _, err := writer.End(t.Context(), "gone", cancelled("gone"), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := heard.NextMsg(await.Limit); err != nil {
		t.Errorf("nothing was announced: %v", err)
	}
	awaitPrinted(t, func(...string) (string, error) {
		response, err := http.Get("http://127.0.0.1:" + port + "/metrics")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}, "ray_executor_cluster_up{", "the keeper's metrics")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func cancelled(id string) *pb.DeliberationCancelled {
	return &pb.DeliberationCancelled{DeliberationId: id, Reason: "enough"}
}

// One cluster that cannot be reached does not keep deploy from the next.
func TestDeployTriesEveryCluster(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "clusters.yaml")
	text := `clusters: [{name: east, address: "http://127.0.0.1:9"}, {name: west, address: "http://127.0.0.1:19"}]`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := runProgram(t.Context(), []string{"RAY_CLUSTERS=" + file}, "deploy", "--only", "worker")
	if err == nil || !strings.Contains(err.Error(), `"east"`) || !strings.Contains(err.Error(), `"west"`) {
		t.Errorf("deploy says %v", err)
	}
}
