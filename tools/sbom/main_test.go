package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAWheelBecomesAComponent(t *testing.T) {
	t.Parallel()
	bill := filepath.Join(t.TempDir(), "bill.json")
	wheel := filepath.Join(t.TempDir(), "nats_py-2.16.0-py3-none-any.whl")
	for file, content := range map[string]string{bill: `{"bomFormat": "CycloneDX", "components": [{"name": "a"}]}`, wheel: "x"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(bill, []string{wheel}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(bill)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"name": "a"`, `"purl": "pkg:pypi/nats-py@2.16.0"`,
		`"content": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"`, // sha256sum of x
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
}

func TestWhatIsNoBillOrNoWheelIsRefused(t *testing.T) {
	t.Parallel()
	bill := filepath.Join(t.TempDir(), "bill.json")
	if err := os.WriteFile(bill, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(bill, nil); err == nil {
		t.Error("a document without components was accepted")
	}
	if _, err := describe("nats.tar.gz"); err == nil {
		t.Error("a file that is not a wheel was accepted")
	}
}
