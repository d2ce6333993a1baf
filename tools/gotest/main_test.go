package main

import "testing"

func TestASkipIsListedWithItsReason(t *testing.T) {
	t.Parallel()
	all := report{outputs: make(map[string][]string)}
	for _, line := range []string{
		`{"Action":"run","Package":"p","Test":"TestX"}`,
		`{"Action":"output","Package":"p","Test":"TestX","Output":"=== RUN   TestX\n"}`,
		`{"Action":"output","Package":"p","Test":"TestX","Output":"    x_test.go:7: no GPU here\n"}`,
		`{"Action":"output","Package":"p","Test":"TestX","Output":"--- SKIP: TestX (0.00s)\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestX"}`,
	} {
		all.add([]byte(line))
	}
	if len(all.skipped) != 1 || all.skipped[0] != "p.TestX: x_test.go:7: no GPU here" {
		t.Errorf("skipped: %q", all.skipped)
	}
}

func TestArgumentsOfSeveralRuns(t *testing.T) {
	t.Parallel()
	if got := split([]string{"-v", "./a", "--", "./b"}); len(got) != 2 || len(got[0]) != 2 || got[1][0] != "./b" {
		t.Errorf("got %q", got)
	}
}
