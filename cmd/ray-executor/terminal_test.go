package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestControlCharactersAreShown(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"ä\t1\n":                  "ä\t1\n",
		"\x1b]0;title\x07\x1b[2J": "␛]0;title␇␛[2J",
		"a\rb\x7f\x00":            "a␍b␡␀",
		"\u009b31m":               "\ufffd31m",
		"\u202etxt.exe":           "\ufffdtxt.exe",
		"\xff":                    "\ufffd",
	} {
		var out bytes.Buffer
		if n, err := (terminal{&out}).Write([]byte(given)); err != nil || n != len(given) || out.String() != want {
			t.Errorf("%q: wrote %d, %v: %q, want %q", given, n, err, &out, want)
		}
	}
}

// Each command that prints a caller's text as text.
func TestNoCommandPrintsControlCharacters(t *testing.T) {
	t.Parallel()
	call, _ := setup(t)
	const task = "t\x1b[2J\u009b"
	expect(t, call, "odd", "submit", "Describe it", "--id", "odd", "--task-id", task)
	expect(t, call, "odd", "cancel", "odd", "--reason", task)
	for _, args := range [][]string{{"list"}, {"status", "odd"}, {"watch", "odd"}, {"cancel", "odd"}} {
		printed, _ := call(args...) // watch reports the bad outcome
		if strings.ContainsAny(printed, "\x1b\u009b") {
			t.Errorf("%s printed %q", args, printed)
		}
	}
	printed, err := call("list", "-o", "json")
	if err != nil || !strings.Contains(printed, `t\u001b[2J`+"\u009b") {
		t.Errorf("list -o json: %v, printed %q", err, printed)
	}
}
