package deliberation_test

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"testing"
)

// No rule of a request's proto files is checked with CEL: its environment would
// take every process that submits 1.5 MB and 5 ms at its first request. The
// test starts itself again, because the first request is the one that compiles.
func TestNoRuleIsInCEL(t *testing.T) {
	if os.Getenv("COUNT_CEL") == "" {
		t.Parallel()
		command := exec.Command(os.Args[0], "-test.run=^TestNoRuleIsInCEL$", "-test.v")
		command.Env = append(os.Environ(), "COUNT_CEL=1")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	runtime.MemProfileRate = 1
	if _, err := rules(t).Accept("d", request()); err != nil {
		t.Fatal(err)
	}
	var profile bytes.Buffer
	if err := pprof.Lookup("allocs").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(profile.Bytes(), []byte("cel-go/checker.Check")) {
		t.Error("a rule in the proto files needs CEL; write it in Go, as checkTexts is")
	}
}
