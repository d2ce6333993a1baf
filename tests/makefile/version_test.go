package makefile

import (
	"regexp"
	"testing"

	"rayexecutor/tests/system"
)

func TestABuildNamesItsVersionAndCommit(t *testing.T) {
	t.Parallel()
	program, err := system.Binary()
	if err != nil {
		t.Fatal(err)
	}
	// Another user's checkout, or an archive of the sources, has no commit.
	want := regexp.MustCompile(`^ray-executor version \S+ \(commit ([0-9a-f]{40}|unknown), go1\.\S+ linux/\S+\)\n$`)
	if got := run(t, program, "--version"); !want.MatchString(got) {
		t.Errorf("got %q, want %s", got, want)
	}
}
