package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"rayexecutor/journal/journaltest"
	"rayexecutor/tests/await"
)

// Commands that somebody waits for end at once with what no waiting mends.
func TestCommandsDoNotWaitInVain(t *testing.T) {
	t.Parallel()
	locked := journaltest.Start(t, func(options *server.Options) { options.Username, options.Password = "u", "p" })
	without := journaltest.Start(t, func(options *server.Options) { options.JetStream = false })
	for url, advice := range map[string]string{
		strings.Replace(locked.URL, "nats://", "nats://u:s3cret@", 1): "refuses the login",
		without.URL: "has no JetStream",
	} {
		for _, command := range []string{
			"deploy --only journal", "dead list", "dead show d1", "dead retry --all", "relay list", "relay retry --all", "doctor --server http://127.0.0.1:9",
		} {
			t.Run(advice+" "+command, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
				defer cancel()
				started := time.Now()
				printed, err := runProgram(ctx, []string{"NATS_URL=" + url, "RAY_ADDRESS=http://127.0.0.1:9", "K_SINK=http://127.0.0.1:9"}, strings.Fields(command)...)
				if err == nil || !strings.Contains(printed+err.Error(), advice) || strings.Contains(printed+err.Error(), "s3cret") {
					t.Errorf("%v, printed %q", err, printed)
				}
				if took := time.Since(started); took > 9*time.Second { // Reach waits 10 s where waiting may help
					t.Errorf("it took %s", took)
				}
			})
		}
	}
}

// A server continues where a command ends, and says why it is not ready.
func TestServersWaitForNATS(t *testing.T) {
	t.Parallel()
	var refuse *server.Options
	nats := journaltest.Start(t, func(options *server.Options) { options.Username, options.Password, refuse = "u", "old", options })
	url := strings.Replace(nats.URL, "nats://", "nats://u:new@", 1)
	server := program{
		environ: []string{"NATS_URL=" + url, "RAY_ADDRESS=http://127.0.0.1:9", "PORT=0", "GRPC_PORT=0"},
		out:     t.Output(), errors: t.Output(),
	}
	settings, log, err := server.load()
	if err != nil {
		t.Fatal(err)
	}
	open, err := openListeners(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, settings, log, open, nil) }()
	t.Cleanup(func() { cancel(); <-ended })

	answers := func(status int, words string) {
		t.Helper()
		await.NoError(t, fmt.Sprintf("readiness to answer %d with %q", status, words), func() error {
			got, body, err := get(t.Context(), http.DefaultClient, open.url()+"/health/readiness")
			if err != nil || got != status || !strings.Contains(body, words) {
				return fmt.Errorf("it answers %d %q: %w", got, body, err)
			}
			return nil
		})
	}
	answers(http.StatusServiceUnavailable, "refuses the login")
	nats.Stop()
	refuse.Password = "new"
	nats.Restart()
	answers(http.StatusServiceUnavailable, "ray-executor deploy")
	journaltest.Connect(t, url)
	answers(http.StatusOK, "ok")
}
