//go:build !image

// What dev checks before it starts anything: settings, folder, ports, Python
// environment and disk. Each error says what to change.

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"rayexecutor/config"
	"rayexecutor/journal"
)

const (
	// devJournal is dev's default of JOURNAL_MAX_BYTES for its own NATS. A
	// developer's machine may have little free disk.
	devJournal = 512 << 20
	// rayDisk is what Ray writes: logs, and the worker's package.
	rayDisk = 128 << 20
	// rayFolder has Ray's files while it runs.
	rayFolder = "/tmp"
)

// check finds what would stop dev later, and takes what only one process can
// have: the folder and the ports.
func (d *dev) check(ctx context.Context) error {
	if err := d.readSettings(); err != nil {
		return err
	}
	if err := d.claimFolder(); err != nil {
		return err
	}
	if err := d.openListeners(ctx); err != nil {
		return err
	}
	return errors.Join(d.checkVenv(), d.checkDisk())
}

// readSettings reads the settings and makes their paths absolute: Ray's
// processes get them too, and have another working directory.
func (d *dev) readSettings() error {
	given, err := config.Given(d.environ)
	if err != nil {
		return err
	}
	paths := []*string{&d.venv, &d.data}
	for _, path := range paths {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	for _, name := range pathSettings {
		if given[name] == "" {
			continue
		}
		if given[name], err = filepath.Abs(given[name]); err != nil {
			return err
		}
		if _, err := os.Stat(given[name]); err != nil {
			return fmt.Errorf("%s: %w: name a file that can be read", name, err)
		}
	}
	d.given = given
	if d.startsNATS() && given["JOURNAL_MAX_BYTES"] == "" {
		given["JOURNAL_MAX_BYTES"] = strconv.Itoa(devJournal)
	}
	_, _, err = d.settings()
	return err
}

// pathSettings are the settings that name files, with those of the worker.
var pathSettings = []string{
	"NATS_CREDS", "NATS_CA", "NATS_CERT", "NATS_KEY", "RAY_CLUSTERS",
	"NATS_USER_FILE", "NATS_PASSWORD_FILE", "NATS_TOKEN_FILE", "VLLM_API_KEY_FILE",
}

// workerEnvironment returns the settings that the worker reads on Ray's nodes,
// as environment variables. They may come from ray-executor.env here.
func workerEnvironment(given map[string]string) []string {
	var environ []string
	for _, name := range slices.Sorted(maps.Keys(given)) {
		secret := slices.Contains([]string{"NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "VLLM_API_KEY"}, name)
		if given[name] != "" && (secret || slices.Contains(pathSettings, name)) && !strings.HasPrefix(name, "RAY_") {
			environ = append(environ, name+"="+given[name])
		}
	}
	return environ
}

func (d *dev) startsNATS() bool { return d.given["NATS_URL"] == "" }

func (d *dev) startsRay() bool { return d.given["RAY_ADDRESS"] == "" && d.given["RAY_CLUSTERS"] == "" }

// openListeners takes the ports. A call that arrives before the start has
// finished waits for it.
func (d *dev) openListeners(ctx context.Context) error {
	settings, _, err := d.settings()
	if err != nil {
		return err
	}
	settings.GRPCDefault = true // dev runs without GRPC_PORT, even one that was set
	d.open, err = openListeners(ctx, settings)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w, as in PORT=%d make run", err, portSetting{"PORT", settings.Port}.another())
	}
	if err != nil {
		return err
	}
	d.stops = append(d.stops, d.open.close)
	return nil
}

func (d *dev) claimFolder() error {
	var err error
	if d.folder, err = claimFolder(d.data); err != nil {
		return err
	}
	d.stops = append(d.stops, d.folder.release)
	return nil
}

// checkVenv fails before NATS and the model start: Ray is the last part, and its own
// error would come after their output.
func (d *dev) checkVenv() error {
	if !d.startsRay() {
		return nil
	}
	for _, program := range []string{"python", "ray"} {
		if _, err := os.Stat(filepath.Join(d.venv, "bin", program)); err != nil {
			return fmt.Errorf("--venv: %s has no Ray: %w: run `make run`, which installs it, or name a Python environment with Ray", d.venv, err)
		}
	}
	return nil
}

// checkDisk compares the disk that the journal and Ray may use with what is
// free.
func (d *dev) checkDisk() error {
	var failed []error
	if d.startsNATS() {
		failed = append(failed, d.checkJournalDisk())
	}
	if d.startsRay() {
		failed = append(failed, checkFreeDisk(rayFolder, "Ray", rayDisk, 0, "free some"))
	}
	return errors.Join(failed...)
}

// checkJournalDisk counts the journal's own files as free: its limit includes
// them.
func (d *dev) checkJournalDisk() error {
	settings, _, err := d.settings()
	if err != nil {
		return err
	}
	used, err := sizeOf(d.data)
	if err != nil {
		return fmt.Errorf("--data: %w: name a folder that can be read", err)
	}
	return checkFreeDisk(d.data, "the journal", journalDisk(settings.JournalMaxBytes), used,
		"free some, name another folder with --data, or set JOURNAL_MAX_BYTES lower")
}

// journalDisk is the limit of all streams together; docs/settings.md has the sum.
func journalDisk(maxBytes int64) int64 { return max(0, maxBytes)/8*12 + journal.WorkersBytes }

// checkFreeDisk compares what a part may use with what is free. What it uses
// already does not count as missing.
func checkFreeDisk(folder, who string, need, used int64, advice string) error {
	free, err := freeDisk(folder)
	if err != nil {
		return fmt.Errorf("free disk of %s: %w", folder, err)
	}
	if free+used < need {
		return fmt.Errorf("%s may use %d MB in %s, which has %d MB free: %s", who, need>>20, folder, free>>20, advice)
	}
	return nil
}

// sizeOf is the size of all files below a folder.
func sizeOf(folder string) (int64, error) {
	var size int64
	err := filepath.WalkDir(folder, func(_ string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
