// Package serve tests `ray-executor serve` as a process: what a platform and
// its callers see of it.
package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

// setup makes a system whose NATS and journal are up, without a Ray.
func setup(t *testing.T, settings ...string) *system.System {
	t.Helper()
	return system.Served(t, system.Options{Settings: settings})
}

func request(id string) *pb.ExecuteDeliberationRequest {
	return &pb.ExecuteDeliberationRequest{
		TaskId: "t", TaskDescription: "d", Role: "DEV", DeliberationId: id, Agents: []*pb.Agent{{Id: "a"}},
	}
}

func TestHTTP2WithoutTLS(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	response, err := client.Get(sys.URL() + "/health/liveness")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != http.StatusOK {
		t.Errorf("answered %s over %s", response.Status, response.Proto)
	}
}

func TestNotReadyUntilTheJournalExists(t *testing.T) {
	t.Parallel()
	sys := system.Make(t, system.Options{})
	if err := sys.LaunchServer(); err != nil {
		t.Fatal(err)
	}
	expectHealth(t, sys, "liveness", http.StatusOK, "")
	expectHealth(t, sys, "readiness", http.StatusServiceUnavailable, "NATS")

	_, err := sys.TrySubmit(t.Context(), request("too-early"))
	refusal, ok := errors.AsType[*system.Refusal](err)
	if !ok || refusal.Status != http.StatusServiceUnavailable || refusal.RetryAfter == "" || refusal.DeliberationID != "too-early" {
		t.Errorf("without NATS, submit answers %+v, %v", refusal, err)
	}

	if err := sys.StartNATS(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectHealth(t, sys, "readiness", http.StatusServiceUnavailable, "ray-executor deploy")
	if printed, err := sys.Run(t.Context(), "deploy", "--only", "journal"); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	expectHealth(t, sys, "readiness", http.StatusOK, "")
	if id := sys.Submit(t, request("in-time")); id != "in-time" {
		t.Errorf("submitted as %s", id)
	}
}

// Where NATS is lost after the start, calls are answered 503 and the server stays
// ready.
func TestStaysReadyWhenNATSGoesAway(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	if err := sys.StopNATS(); err != nil {
		t.Fatal(err)
	}
	_, err := sys.TrySubmit(t.Context(), request("lost"))
	if refusal, ok := errors.AsType[*system.Refusal](err); !ok || refusal.Status != http.StatusServiceUnavailable {
		t.Errorf("without NATS, submit answers %v", err)
	}
	expectHealth(t, sys, "readiness", http.StatusOK, "")
	if err := sys.StartNATS(t.Context()); err != nil {
		t.Fatal(err)
	}
	sys.Submit(t, request("lost"))
}

// SIGTERM lets requests in flight end: a submit that waits for a NATS server
// without answers is still answered 503.
func TestDrainsOnSIGTERM(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	if err := sys.PauseNATS(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := sys.TrySubmit(context.WithoutCancel(t.Context()), request("under-way"))
		answered <- err
	}()
	awaitMetric(t, sys, `ray_executor_requests_in_flight 1`)
	if err := sys.StopServer(); err != nil {
		t.Errorf("after SIGTERM it ended with %v", err)
	}
	refusal, ok := errors.AsType[*system.Refusal](<-answered)
	if !ok || refusal.Status != http.StatusServiceUnavailable {
		t.Errorf("what was under way was answered %+v", refusal)
	}
	if _, err := net.Dial("tcp", strings.TrimPrefix(sys.URL(), "http://")); err == nil {
		t.Error("it still listens")
	}
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	response, err := http.Post(sys.URL(), "application/cloudevents-batch+json", bytes.NewReader(make([]byte, 9<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("9 MiB are answered %s", response.Status)
	}
}

// func's server cuts a request after 30 s; ours lets streams last.
func TestNoStreamIsCut(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	sys.Submit(t, request("long"))
	response, err := http.Get(sys.URL() + "/v1/deliberations/long/events")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	started, beats := time.Now(), 0
	for lines := bufio.NewScanner(response.Body); beats < 5; {
		if !lines.Scan() {
			t.Fatalf("the stream ends after %v: %v", time.Since(started), lines.Err())
		}
		if lines.Text() == ":" {
			beats++ // one each 15 s
		}
	}
	if lived := time.Since(started); lived < 65*time.Second {
		t.Errorf("five heartbeats take %v", lived)
	}
}

// A body that does not arrive holds nothing for long.
func TestASlowBodyIsRefused(t *testing.T) {
	t.Parallel()
	sys := setup(t)
	body, writer := io.Pipe()
	defer writer.Close()
	go fmt.Fprint(writer, "{")
	started := time.Now()
	response, err := http.Post(sys.URL()+"/v1/deliberations", "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if took := time.Since(started); response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || took > 2*time.Minute {
		t.Errorf("answered %s after %v", response.Status, took)
	}
}

func TestAMalformedSettingRefusesTheStart(t *testing.T) {
	t.Parallel()
	sys := system.Make(t, system.Options{})
	printed, err := sys.RunWith(t.Context(), []string{"POOLS=Not A Pool"}, "serve")
	if err == nil || !strings.Contains(printed, "POOLS") {
		t.Errorf("it started, or does not name the setting: %v\n%s", err, printed)
	}
}

// A NATS server that is too old ends the process: waiting cannot help.
func TestAnOldNATSIsRefused(t *testing.T) {
	t.Parallel()
	url := oldNATS(t)
	for _, command := range [][]string{{"serve"}, {"deploy", "--only", "journal"}} {
		ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
		printed, err := system.Make(t, system.Options{}).RunWith(ctx, []string{"NATS_URL=" + url}, command...)
		cancel()
		if err == nil || !strings.Contains(printed, "2.12") || !strings.Contains(printed, "2.11.9") {
			t.Errorf("%v: %v\n%s", command, err, printed)
		}
	}
}

// oldNATS greets as an old server does, and answers pings.
func oldNATS(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go greet(conn)
		}
	}()
	return "nats://" + listener.Addr().String()
}

func greet(conn net.Conn) {
	defer conn.Close()
	fmt.Fprint(conn, "INFO {\"server_id\":\"old\",\"version\":\"2.11.9\",\"max_payload\":1048576,\"proto\":1,\"headers\":true,\"jetstream\":true}\r\n")
	buffer := make([]byte, 4096)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if bytes.Contains(buffer[:n], []byte("PING")) {
			fmt.Fprint(conn, "PONG\r\n")
		}
	}
}

func expectHealth(t *testing.T, sys *system.System, probe string, status int, reason string) {
	t.Helper()
	await.NoError(t, fmt.Sprintf("%s to answer %d with %q", probe, status, reason), func() error {
		code, body, err := get(sys.URL() + "/health/" + probe)
		if err != nil || code != status || !strings.Contains(body, reason) {
			return fmt.Errorf("it answers %d %q: %w", code, body, err)
		}
		return nil
	})
}

func awaitMetric(t *testing.T, sys *system.System, line string) {
	t.Helper()
	await.True(t, "the metric "+line, func() bool {
		_, body, err := get(sys.URL() + "/metrics")
		return err == nil && strings.Contains(body, line)
	})
}

func get(url string) (status int, body string, err error) {
	response, err := http.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, string(data), err
}
