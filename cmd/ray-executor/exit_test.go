package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestExitCodes runs a command for each exit code, and checks what it says.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	call, nats := setup(t)
	environ := []string{"NATS_URL=" + nats.URL, "LOG_LEVEL=ERROR", "K_SINK=http://127.0.0.1:9", "RAY_ADDRESS=http://127.0.0.1:9"}
	expect(t, call, "done submitted", "submit", "Describe it", "--id", "done")
	expect(t, call, "done cancelled", "cancel", "done")
	denying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer denying.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	for _, one := range []struct {
		command, says string
		code          int
	}{
		{"status done", "", 0},
		{"cancel done", "", 0},
		{"watch done", "deliberation done is cancelled", exitFailed},
		{"doctor", "at least one check failed", exitFailed},
		{"nothing", "has no command \"nothing\"", exitUsage},
		{"dead lits", "(similar: list)", exitUsage},
		{"status", "usage: ray-executor status ID", exitUsage},
		{"status done more", "usage: ray-executor status ID", exitUsage},
		{"stats --nothing", "`ray-executor stats --help` lists the flags", exitUsage},
		{"stats -o toml", "must be text, json or yaml", exitUsage},
		{"relay list -o toml", "must be text, json or yaml", exitUsage},
		{"deploy --only nothing", "must be journal or worker", exitUsage},
		{"dead retry", "or --all", exitUsage},
		{"submit d --file nowhere", "--file: open nowhere", exitUsage},
		{"status nobody", "no such deliberation: check the id", exitNotFound},
		{"status nobody -o json", "no such deliberation: check the id", exitNotFound},
		{"cancel nobody", "no such deliberation: check the id", exitNotFound},
		{"watch nobody", "no such deliberation: check the id", exitNotFound},
		{"dead show nobody", "dead list", exitNotFound},
		{"dead retry nobody", "dead list", exitNotFound},
		{"relay retry nobody", "relay list", exitNotFound},
		{"stats --server " + denying.URL, "set RAY_EXECUTOR_TOKEN", exitDenied},
		{"status ä", "deliberation_id", exitRefused},
		{"submit d --pool nowhere", "pool", exitRefused},
		{"submit other --id done", "another request", exitRefused},
		{"stats --server " + other.URL, "check that --server names a ray-executor server", exitRefused},
		{"stats --server http://127.0.0.1:9", "start the server, or name another one with --server", exitUnavailable},
		{"watch done --server http://127.0.0.1:9", "start the server", exitUnavailable},
	} {
		args := strings.Fields(one.command)
		printed, err := call(args...)
		if strings.Contains(one.command, "--server") || args[0] == "nothing" || args[0] == "dead" || args[0] == "relay" || args[0] == "deploy" {
			printed, err = runProgram(t.Context(), environ, args...)
		}
		if exitCode(err) != one.code || err != nil && !strings.Contains(err.Error(), one.says) {
			t.Errorf("%s: %d, %v, printed %q; want %d and %q", one.command, exitCode(err), err, printed, one.code, one.says)
		}
	}
	if _, err := runProgram(t.Context(), []string{"RAY_EXECUTOR_TOKEN=good", "RAY_EXECUTOR_SERVER=" + denying.URL}, "stats"); exitCode(err) != exitDenied || !strings.Contains(err.Error(), "403") {
		t.Errorf("the token is not sent to RAY_EXECUTOR_SERVER: %v", err)
	}
	if _, err := runProgram(t.Context(), []string{"POOLS=Not A Pool"}, "serve"); exitCode(err) != exitUsage {
		t.Errorf("a malformed setting: %v", err)
	}
}
