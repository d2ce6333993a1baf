package main

import (
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rayexecutor/journal/journaltest"
	"rayexecutor/standin"
)

// claimed is a folder as a running dev has it.
func claimed(t *testing.T, folder string, settings map[string]string) {
	t.Helper()
	dev, err := claimFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dev.release)
	if err := dev.write(settings); err != nil {
		t.Fatal(err)
	}
}

// A folder is one dev's: the second gets an error that names the first.
func TestTwoDevsInOneFolder(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "data")
	claimed(t, folder, nil)
	_, err := runProgram(t.Context(), []string{"PORT=0", "GRPC_PORT=0"}, "dev", "--data", folder, "--venv", "/nowhere")
	if err == nil || !strings.Contains(err.Error(), "another dev (pid "+strconv.Itoa(os.Getpid())+") runs in "+folder) {
		t.Error(err)
	}
	other, err := claimFolder(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	other.release()
}

func TestAFolderThatCannotBeMade(t *testing.T) {
	t.Parallel()
	_, err := runProgram(t.Context(), []string{"PORT=0"}, "dev", "--data", "/proc/none")
	if err == nil || !strings.Contains(err.Error(), "--data: mkdir /proc/none") || strings.Contains(err.Error(), "another dev") {
		t.Error(err)
	}
}

// Any value of a setting is read back as it was.
func TestWhatADevTells(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	settings := map[string]string{
		"NATS_URL": "nats://127.0.0.1:4222", devServer: "http://localhost:1", "POOLS": "default,gpu:7", "K_CE_OVERRIDES": `{"extensions":{"a":"b"}}`,
		"RAY_AUTH_TOKEN": `a b$c!d"e'f#g\h` + "`", "K_CA_CERTS": "-----BEGIN\nx\n-----END\n",
	}
	claimed(t, folder, settings)
	if got, ok := runningDev(folder); !ok || !maps.Equal(got, settings) {
		t.Errorf("%t, got %q", ok, got)
	}
	info, err := os.Stat(filepath.Join(folder, devFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestADevThatIsGoneSaysNothing(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	dev, err := claimFolder(folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := runningDev(folder); ok {
		t.Error("one that is starting has no settings yet")
	}
	dev.release()
	if text, err := os.ReadFile(filepath.Join(folder, devFile)); err != nil || len(text) != 0 {
		t.Errorf("it leaves %q, %v", text, err)
	}
	// One that was killed leaves its file.
	if err := os.WriteFile(filepath.Join(folder, devFile), []byte("# pid 1\n"+devServer+"=http://localhost:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := runningDev(folder); ok {
		t.Error("a file that nobody has locked counts")
	}
}

// The operator's commands, in the folder where a dev runs, with nothing set.
func TestCommandsBesideADev(t *testing.T) {
	nats := journaltest.Start(t)
	journaltest.Connect(t, nats.URL)
	model, err := standin.New(standin.Options{})
	if err != nil {
		t.Fatal(err)
	}
	answers := httptest.NewServer(model)
	t.Cleanup(answers.Close)
	t.Chdir(t.TempDir())
	claimed(t, devData, map[string]string{
		"NATS_URL": nats.URL, "RAY_ADDRESS": "http://127.0.0.1:9", "VLLM_URL": answers.URL, devServer: "http://127.0.0.1:19",
	})
	for _, command := range [][]string{{"dead", "list"}, {"relay", "list"}, {"doctor"}} {
		printed, err := runProgram(t.Context(), nil, command...)
		if !strings.Contains(printed, "using the settings of the dev that runs in this folder") || command[0] != "doctor" && err != nil {
			t.Errorf("%v: %v, %s", command, err, printed)
		}
		if command[0] != "doctor" {
			continue
		}
		for _, want := range []string{"http://127.0.0.1:19", "journal  ok", "http://127.0.0.1:9", "model    ok"} {
			if !strings.Contains(printed, want) {
				t.Errorf("doctor does not say %q:\n%s", want, printed)
			}
		}
	}
	if _, err := runProgram(t.Context(), nil, "stats"); err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:19") {
		t.Errorf("stats asks another server: %v", err)
	}
	given := map[string]string{"NATS_URL": "nats://elsewhere:4222"}
	if addDevSettings(given) || len(given) != 1 {
		t.Errorf("who names another NATS does not mean dev's: %v", given)
	}
	given = map[string]string{"NATS_URL": nats.URL}
	if !addDevSettings(given) || given["RAY_ADDRESS"] != "http://127.0.0.1:9" {
		t.Errorf("who names dev's NATS means dev: %v", given)
	}
}
