// The folder of a running dev, and how the other commands find its servers.
//
// dev locks the file dev.env in its folder and writes its settings to it. A
// command that runs in the same working directory reads them. The lock, and not
// the file, says that a dev runs: a killed process leaves the file, but the
// system releases its lock.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/joho/godotenv"

	"rayexecutor/config"
)

const (
	// devData is the folder of dev's journal and logs.
	devData = ".ray-executor"
	devFile = "dev.env"
	// devServer names the function server's URL, in the environment and in devFile.
	devServer     = "RAY_EXECUTOR_SERVER"
	defaultServer = "http://localhost:8080"
	serverUsage   = "`URL` of the function server (default: RAY_EXECUTOR_SERVER, else that of the dev that runs in this folder, else " + defaultServer + ")"
)

// errLocked means that another process has the lock.
var errLocked = errors.New("locked")

// devFolder is a folder that is locked until release.
type devFolder struct{ file *os.File }

// claimFolder creates a folder if it does not exist, and locks it.
func claimFolder(folder string) (*devFolder, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("--data: %w: name a folder that can be created and written", err)
	}
	file, err := os.OpenFile(filepath.Join(folder, devFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--data: %w: name a folder that can be written", err)
	}
	claimed := &devFolder{file}
	if err := lockWithRetry(file); err != nil {
		_ = file.Close() // nothing was written
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("--data: another dev%s runs in %s: stop it, or name another folder", ownerOf(file.Name()), folder)
		}
		return nil, fmt.Errorf("--data: lock %s: %w: name a folder on a local file system", file.Name(), err)
	}
	return claimed, claimed.write(nil)
}

// lockWithRetry takes the lock. A command that checks for a running dev may
// hold it for a moment.
func lockWithRetry(file *os.File) error {
	for range 20 {
		if err := lock(file, true); !errors.Is(err, errLocked) {
			return err
		}
		time.Sleep(25 * time.Millisecond)
	}
	return errLocked
}

// write replaces the settings that other commands read.
func (d *devFolder) write(settings map[string]string) error {
	text, err := godotenv.Marshal(settings)
	if err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	written := fmt.Sprintf("# pid %d\n%s\n", os.Getpid(), text)
	_, err = d.file.WriteAt([]byte(written), 0)
	if err := errors.Join(err, d.file.Truncate(int64(len(written)))); err != nil {
		return fmt.Errorf("--data: %w: name a folder that can be written", err)
	}
	return nil
}

// release erases the settings, which include a token, and unlocks the folder.
// It does not delete the file: another dev may be opening it.
func (d *devFolder) release() {
	_ = d.file.Truncate(0) // an unlocked file is ignored
	_ = d.file.Close()
}

// ownerOf is ` (pid N)` of the dev that wrote a file, or empty if it cannot be
// read.
func ownerOf(path string) string {
	text, _ := os.ReadFile(path)
	var pid int
	if _, err := fmt.Sscanf(string(text), "# pid %d\n", &pid); err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}

// runningDev returns the settings of the dev that runs in a folder. ok is false
// if none runs, or it has not finished its start.
func runningDev(folder string) (settings map[string]string, ok bool) {
	file, err := os.Open(filepath.Join(folder, devFile))
	if err != nil {
		return nil, false
	}
	defer file.Close()
	// Another user's dev would get our token, and name our servers.
	if !ours(file) || !errors.Is(lock(file, false), errLocked) {
		return nil, false
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, false
	}
	settings, err = godotenv.Unmarshal(string(text))
	return settings, err == nil && settings[devServer] != ""
}

// addDevSettings adds the settings of the dev that runs in the working directory
// to the given ones, and reports whether it added any. It adds none if a given
// setting names another NATS or Ray: the two would not fit together.
func addDevSettings(given map[string]string) bool {
	settings, ok := runningDev(devData)
	if !ok {
		return false
	}
	for _, name := range []string{"NATS_URL", "RAY_ADDRESS", "RAY_CLUSTERS"} {
		if given[name] != "" && given[name] != settings[name] {
			return false
		}
	}
	delete(settings, devServer)
	added := false
	for name, value := range settings {
		if given[name] == "" {
			given[name] = value
			added = true
		}
	}
	return added
}

// serverURL is the function server to call: that of --server, else that of
// RAY_EXECUTOR_SERVER, else that of the running dev, else the default.
func (p program) serverURL(flag string) string {
	if given := cmp.Or(flag, p.environment(devServer)); given != "" {
		return given
	}
	if settings, ok := runningDev(devData); ok {
		return settings[devServer]
	}
	return defaultServer
}

// sharedSettings returns the settings of a dev that other commands need. It
// leaves out where dev listens, how it logs, and the model's key, which only the
// worker needs.
func sharedSettings(given map[string]string, server string) map[string]string {
	settings := maps.Clone(given)
	maps.DeleteFunc(settings, func(name, value string) bool {
		return value == "" || !slices.Contains(config.Names(), name) || strings.HasPrefix(name, "LOG_") ||
			slices.Contains([]string{"PORT", "GRPC_PORT", "HOST", "AUTH", "AUTH_KEYS", "CORS_ORIGINS", "WEBHOOK_ORIGINS", "METRICS_PORT", "VLLM_API_KEY"}, name)
	})
	settings[devServer] = server
	return settings
}
