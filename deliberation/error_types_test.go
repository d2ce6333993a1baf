package deliberation_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/tests/vectors"
)

// TestErrorTypes compares the error types that Go writes, and those of the table in
// docs/requests.md, with the closed set.
func TestErrorTypes(t *testing.T) {
	t.Parallel()
	all := vectors.Read[string](t, "error_types.json")
	for _, written := range []deliberation.ErrorType{deliberation.TimedOut, deliberation.Damaged} {
		if !slices.Contains(all, string(written)) {
			t.Errorf("%s is not one of %v", written, all)
		}
	}
	page, err := os.ReadFile("../docs/requests.md")
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)\| .error_type. \| what happened.*?\n\n`).Find(append(page, "\n\n"...))
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\|").FindAllSubmatch(table, -1) {
		for _, name := range regexp.MustCompile("[a-z_]+").FindAllString(string(row[1]), -1) {
			if name != "error_type" {
				documented = append(documented, name)
			}
		}
	}
	slices.Sort(documented)
	slices.Sort(all)
	if !slices.Equal(documented, all) {
		t.Errorf("docs/requests.md has %v\nthe set is %v", documented, all)
	}
}
