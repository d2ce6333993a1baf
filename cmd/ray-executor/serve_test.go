package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"rayexecutor/journal/journaltest"
)

// TestStopEndsStreams: watchers get the reason, and keep no server from
// stopping.
func TestStopEndsStreams(t *testing.T) {
	t.Parallel()
	nats := journaltest.Start(t)
	journaltest.Connect(t, nats.URL)
	server := program{
		environ: []string{"NATS_URL=" + nats.URL, "RAY_ADDRESS=http://127.0.0.1:9", "VLLM_URL=http://127.0.0.1:9", "VLLM_MODEL=none", "KEEPER=false", "PORT=0", "GRPC_PORT=0"},
		out:     t.Output(), errors: t.Output(),
	}
	settings, log, err := server.load()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open, err := openListeners(ctx, settings)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, settings, log, open, nil) }()
	url := open.url()
	if err := awaitServer(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if printed, err := runProgram(t.Context(), nil, "submit", "Decide.", "--id", "d", "--server", url); err != nil {
		t.Fatal(printed, err)
	}
	stream, err := http.Get(url + "/v1/deliberations/d/events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	stopped := time.Now()
	cancel()
	said, err := io.ReadAll(stream.Body)
	if err != nil || !strings.Contains(string(said), "the server is stopping") {
		t.Errorf("%v %s", err, said)
	}
	<-ended
	if took := time.Since(stopped); took > drainTimeout*3/4 {
		t.Errorf("it took %s to stop", took)
	}
}
