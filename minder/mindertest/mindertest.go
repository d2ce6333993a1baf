// Package mindertest runs tests on signals where they can hurt nobody, and shows
// that they would have: in a PID namespace of their own, beside canaries.
package mindertest

import (
	"bytes"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// inside is set in the namespace.
const inside = "MINDERTEST_INSIDE"

// Apart runs the test once more, in a PID namespace, and returns false: the caller
// returns then. In the namespace it returns true. The processes there have
// session 0, as those of containers often have. The test is skipped where such a
// namespace cannot be made.
func Apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	unshare := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	if printed, err := exec.CommandContext(t.Context(), unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("no PID namespace here: %v: %s", err, printed)
	}
	// The shell is pid 1, and stays: pid 1 has rules of its own for signals.
	again := slices.Concat(unshare[1:], []string{
		"sh", "-c", `"$@"; exit $?`, "sh", os.Args[0], "-test.v", "-test.timeout=4m",
		"-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$",
	})
	command := exec.CommandContext(t.Context(), unshare[0], again...) //nolint:gosec // this test
	command.Env = append(os.Environ(), inside+"=1")
	// kill(0) leaves the namespace where the process group reaches out of it.
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	printed, err := command.CombinedOutput()
	t.Logf("in the namespace:\n%s", printed)
	if err != nil || !bytes.Contains(printed, []byte("--- PASS: "+t.Name())) {
		t.Errorf("in the namespace: %v", err)
	}
	return false
}

// Canaries starts processes that nobody may signal: one in this process group and
// session, one in a session of its own. The test fails if one has died by its end.
func Canaries(t *testing.T) {
	t.Helper()
	for _, line := range [][]string{{"sleep", "1000"}, {"setsid", "sleep", "1000"}} {
		canary := exec.Command(line[0], line[1:]...) //nolint:noctx // must not end with the test
		if err := canary.Start(); err != nil {
			t.Fatal(err)
		}
		died := make(chan error, 1)
		go func() { died <- canary.Wait() }()
		t.Cleanup(func() {
			defer canary.Process.Kill() //nolint:errcheck // it may have died
			select {
			case err := <-died:
				t.Errorf("the canary %q was hurt: %v", line, err)
			default:
			}
		})
	}
}
