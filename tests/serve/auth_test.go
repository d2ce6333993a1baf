package serve_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// TestAuthMustBeSaidInACluster: the start is refused with what to do.
func TestAuthMustBeSaidInACluster(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"K_SERVICE", "KUBERNETES_SERVICE_HOST"} {
		sys := system.Make(t, system.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
		printed, err := sys.RunWith(ctx, []string{name + "=there"}, "serve")
		cancel()
		if err == nil || !strings.Contains(printed, "AUTH=keys") || !strings.Contains(printed, "AUTH=none") {
			t.Errorf("with %s: %v\n%s", name, err, printed)
		}
	}
}

// TestOthersAreAnsweredOnlyWhereAuthIsSet: HOST alone opens the port, not the doors.
func TestOthersAreAnsweredOnlyWhereAuthIsSet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		settings []string
		status   int
	}{
		{[]string{"HOST=0.0.0.0"}, http.StatusForbidden},
		{[]string{"AUTH=none"}, http.StatusOK},
	} {
		sys := setup(t, c.settings...)
		if status, body, err := get(sys.URL() + "/v1/stats"); err != nil || status != http.StatusOK {
			t.Errorf("%v, over the loopback: %d %s %v", c.settings, status, body, err)
		}
		elsewhere := strings.Replace(sys.URL(), "127.0.0.1", address(t), 1)
		if status, body, err := get(elsewhere + "/v1/stats"); err != nil || status != c.status {
			t.Errorf("%v, at %s: %d %s %v", c.settings, elsewhere, status, body, err)
		}
		if status, _, err := get(elsewhere + "/health/readiness"); err != nil || status != http.StatusOK {
			t.Errorf("%v: a probe is answered %d %v", c.settings, status, err)
		}
	}
}

// address is an address of this machine that is not the loopback's.
func address(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range addresses {
		if prefix, ok := one.(*net.IPNet); ok && prefix.IP.To4() != nil && !prefix.IP.IsLoopback() {
			return prefix.IP.String()
		}
	}
	t.Fatal("this machine has no address besides the loopback's")
	return ""
}

// TestKeys: the commands send RAY_EXECUTOR_TOKEN, and a change of the file is in
// force without a restart.
func TestKeys(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	writeKeys(t, path, "one", "admin")
	sys := setup(t, "AUTH=keys", "AUTH_KEYS="+path)
	stats := func(key string) (int, string) {
		printed, err := sys.RunWith(t.Context(), []string{"RAY_EXECUTOR_TOKEN=" + key, "RAY_EXECUTOR_SERVER=" + sys.URL()}, "stats")
		if failed, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output returns it as it is
			return failed.ExitCode(), printed
		}
		return 0, printed
	}
	if code, printed := stats("one"); code != 0 {
		t.Errorf("with a key: %d\n%s", code, printed)
	}
	for _, key := range []string{"", "two"} {
		if code, printed := stats(key); code != 4 {
			t.Errorf("with the key %q: exit code %d\n%s", key, code, printed)
		}
	}
	for key, want := range map[string]int{"": http.StatusUnauthorized, "one": http.StatusOK} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, sys.URL()+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if response.Body.Close(); response.StatusCode != want {
			t.Errorf("/metrics with the key %q: %s", key, response.Status)
		}
	}
	writeKeys(t, path, "two", "read")
	await.True(t, "the new key to be valid", func() bool { code, _ := stats("two"); return code == 0 })
	if code, printed := stats("one"); code != 4 {
		t.Errorf("with the old key: exit code %d\n%s", code, printed)
	}
}

// TestMetricsPort: the metrics are there, without a key, and not on PORT.
func TestMetricsPort(t *testing.T) {
	t.Parallel()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.yaml")
	writeKeys(t, path, "one", "admin")
	sys := setup(t, "AUTH=keys", "AUTH_KEYS="+path, fmt.Sprintf("METRICS_PORT=%d", port), "HOST=localhost")
	if status, body, err := get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port)); err != nil || status != http.StatusOK || !strings.Contains(body, "ray_executor_requests_in_flight") {
		t.Errorf("on METRICS_PORT: %d %v", status, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, sys.URL()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer one")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if response.Body.Close(); response.StatusCode != http.StatusNotFound {
		t.Errorf("on PORT: %s", response.Status)
	}
}

// TestForeignPages: what a browser sends for a page of another site is refused, by
// its Origin, by its Host, or for want of a declared body.
func TestForeignPages(t *testing.T) {
	t.Parallel()
	sys := setup(t, "CORS_ORIGINS=https://console.example.com", "WEBHOOK_ORIGINS=events.example.com")
	for _, c := range []struct {
		name, method, path, host string
		header                   http.Header
		status                   int
		replies                  string // a header of the reply
	}{
		{"this server's page", "POST", "/v1/deliberations/x:cancel", "", http.Header{"Origin": {sys.URL()}}, 404, ""},
		{"no browser", "POST", "/v1/deliberations/x:cancel", "", nil, 404, ""},
		{"another site", "POST", "/v1/deliberations/x:cancel", "", http.Header{"Origin": {"https://evil.example.com"}}, 403, ""},
		{"another port", "POST", "/v1/deliberations/x:cancel", "", http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://localhost:1"}}, 403, ""},
		{"a file", "POST", "/v1/deliberations/x:cancel", "", http.Header{"Origin": {"null"}}, 403, ""},
		{"another site over Connect", "POST", "/ray_executor.v1.RayExecutorService/GetStatus", "", http.Header{"Origin": {"https://evil.example.com"}, "Content-Type": {"application/json"}}, 403, ""},
		{"a trusted site", "POST", "/v1/deliberations/x:cancel", "", http.Header{"Origin": {"https://console.example.com"}}, 404, "Access-Control-Allow-Origin"},
		{"a trusted site asks", "OPTIONS", "/v1/deliberations", "", http.Header{"Origin": {"https://console.example.com"}, "Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {"authorization,content-type"}}, 204, "Access-Control-Allow-Headers"},
		{"another name of this machine", "GET", "/v1/stats", "rebound.example.com", nil, 403, ""},
		{"this machine's name", "GET", "/v1/stats", "LOCALHOST.:80", nil, 200, ""},
		{"its address", "GET", "/v1/stats", "[::1]", nil, 200, ""},
		{"a sender asks", "OPTIONS", "/", "", http.Header{"Webhook-Request-Origin": {"events.example.com"}, "Webhook-Request-Rate": {"10"}}, 200, "Webhook-Allowed-Rate"},
		{"another sender asks", "OPTIONS", "/", "", http.Header{"Webhook-Request-Origin": {"other.example.com"}}, 403, "Allow"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, sys.URL()+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = c.host
		if c.header != nil {
			r.Header = c.header
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if response.Body.Close(); err != nil || response.StatusCode != c.status || c.replies != "" && response.Header.Get(c.replies) == "" {
			t.Errorf("%s: %s %v %s %v", c.name, response.Status, response.Header, body, err)
		}
	}
	undeclared, err := http.NewRequestWithContext(t.Context(), http.MethodPost, sys.URL()+"/v1/deliberations", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(undeclared)
	if err != nil {
		t.Fatal(err)
	}
	if response.Body.Close(); response.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("a body of no type is answered %s", response.Status)
	}
}

func writeKeys(t *testing.T, path, key, scope string) {
	t.Helper()
	digest := sha256.Sum256([]byte(key))
	content := fmt.Sprintf("keys:\n  - {tenant: a, sha256: %s, scopes: [%s]}\n", hex.EncodeToString(digest[:]), scope)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
