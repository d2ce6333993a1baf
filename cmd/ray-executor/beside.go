package main

import (
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

// A running dev has its folder to itself, and tells the other commands where
// its parts are: devFile in the folder is locked by it, and holds its settings.
// A file that nobody has locked is a dead dev's, and says nothing.

const (
	// devData is the folder where dev keeps its journal and its logs.
	devData = ".ray-executor"
	devFile = "dev.env"
	// devServer is the name in devFile of the function server's URL.
	devServer = "RAY_EXECUTOR_SERVER"
	// defaultServer is where a function server is looked for.
	defaultServer = "http://localhost:8080"
	serverUsage   = "the function server's `URL` (default: that of the dev that runs here, else " + defaultServer + ")"
)

// errLocked says that another process has the lock.
var errLocked = errors.New("locked")

// devFolder is a folder that belongs to this dev until release.
type devFolder struct{ file *os.File }

// claimFolder makes a folder where there is none, and locks it.
func claimFolder(folder string) (*devFolder, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("--data: %w: name a folder that can be made and written", err)
	}
	file, err := os.OpenFile(filepath.Join(folder, devFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--data: %w: name a folder that can be written", err)
	}
	claimed := &devFolder{file}
	if err := lockSoon(file); err != nil {
		_ = file.Close() // nothing was written
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("--data: another dev%s runs on %s: stop it, or name another folder", ownerOf(file.Name()), folder)
		}
		return nil, fmt.Errorf("--data: lock %s: %w", file.Name(), err)
	}
	return claimed, claimed.tell(nil)
}

// lockSoon takes the lock. A command that looks whether a dev runs may have it
// for a moment.
func lockSoon(file *os.File) error {
	for range 20 {
		if err := lock(file, true); !errors.Is(err, errLocked) {
			return err
		}
		time.Sleep(25 * time.Millisecond)
	}
	return errLocked
}

// tell writes the settings that other commands are to use.
func (d *devFolder) tell(settings map[string]string) error {
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

// release takes the settings back: there is a token among them. The file
// stays, for another dev may be opening it.
func (d *devFolder) release() {
	_ = d.file.Truncate(0) // without a lock it says nothing
	_ = d.file.Close()
}

// ownerOf is ` (pid N)` of the dev that wrote a file, as far as it can be read.
func ownerOf(path string) string {
	text, _ := os.ReadFile(path)
	var pid int
	if _, err := fmt.Sscanf(string(text), "# pid %d\n", &pid); err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}

// runningDev returns the settings of the dev that runs on a folder; ok is false
// where none does, or it is still starting.
func runningDev(folder string) (settings map[string]string, ok bool) {
	file, err := os.Open(filepath.Join(folder, devFile))
	if err != nil {
		return nil, false
	}
	defer file.Close()
	if !errors.Is(lock(file, false), errLocked) {
		return nil, false
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, false
	}
	settings, err = godotenv.Unmarshal(string(text))
	return settings, err == nil && settings[devServer] != ""
}

// beside adds the settings of the dev that runs in the working directory to
// what was given, unless that names other parts than dev's. It returns whether
// it did.
func beside(given map[string]string) bool {
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

// serverURL is the function server that a command calls: what --server names,
// else the running dev's, else the default.
func serverURL(flag string) string {
	if flag != "" {
		return flag
	}
	if settings, ok := runningDev(devData); ok {
		return settings[devServer]
	}
	return defaultServer
}

// told are the settings of a dev that concern other commands: not where it
// listens or logs, nor the models' key, which the worker alone needs.
func told(given map[string]string, server string) map[string]string {
	settings := maps.Clone(given)
	maps.DeleteFunc(settings, func(name, value string) bool {
		return value == "" || !slices.Contains(config.Names(), name) || strings.HasPrefix(name, "LOG_") ||
			slices.Contains([]string{"PORT", "GRPC_PORT", "HOST", "AUTH", "VLLM_API_KEY"}, name)
	})
	settings[devServer] = server
	return settings
}
