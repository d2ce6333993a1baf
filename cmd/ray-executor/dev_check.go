//go:build !image

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
	// devJournal is JOURNAL_MAX_BYTES of dev's own NATS where it is not set: a
	// machine to try things on may have little room.
	devJournal = 512 << 20
	// rayDisk is what Ray writes: logs, and the worker's package.
	rayDisk = 128 << 20
	// rayFolder is where Ray's files are while it runs.
	rayFolder = "/tmp"
)

// check looks at all that can be looked at quickly, before anything slow
// starts, and takes what only one may have: the ports and the folder.
func (d *dev) check(ctx context.Context) error {
	if err := d.readSettings(); err != nil {
		return err
	}
	if err := d.claimFolder(); err != nil {
		return err
	}
	if err := d.openDoors(ctx); err != nil {
		return err
	}
	return errors.Join(d.checkVenv(), d.checkDisk())
}

// readSettings reads what is given, and makes its paths absolute: Ray's
// processes, which are told them too, run elsewhere.
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
	if d.ownNATS() && given["JOURNAL_MAX_BYTES"] == "" {
		given["JOURNAL_MAX_BYTES"] = strconv.Itoa(devJournal)
	}
	_, _, err = d.settings()
	return err
}

// pathSettings are the settings, the Ray worker's among them, that name files.
var pathSettings = []string{
	"NATS_CREDS", "NATS_CA", "NATS_CERT", "NATS_KEY", "RAY_CLUSTERS",
	"NATS_USER_FILE", "NATS_PASSWORD_FILE", "NATS_TOKEN_FILE", "VLLM_API_KEY_FILE",
}

// workerEnvironment is what the worker reads on dev's own Ray nodes, from
// wherever it was given.
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

func (d *dev) ownNATS() bool { return d.given["NATS_URL"] == "" }

func (d *dev) ownRay() bool { return d.given["RAY_ADDRESS"] == "" && d.given["RAY_CLUSTERS"] == "" }

// openDoors takes the ports: whoever calls before all is up is answered then.
func (d *dev) openDoors(ctx context.Context) error {
	settings, _, err := d.settings()
	if err != nil {
		return err
	}
	settings.GRPCDefault = true // dev goes on without, whoever set it
	d.open, err = openDoors(ctx, settings)
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

func (d *dev) checkVenv() error {
	if !d.ownRay() {
		return nil
	}
	for _, program := range []string{"python", "ray"} {
		if _, err := os.Stat(filepath.Join(d.venv, "bin", program)); err != nil {
			return fmt.Errorf("--venv: no Ray in %s: %w: run `make run`, which installs it, or name a Python environment with Ray", d.venv, err)
		}
	}
	return nil
}

// checkDisk holds what the journal may grow to, and what Ray writes, against
// the disks.
func (d *dev) checkDisk() error {
	var failed []error
	if d.ownNATS() {
		failed = append(failed, d.checkJournalDisk())
	}
	if d.ownRay() {
		failed = append(failed, enoughDisk(rayFolder, "Ray", rayDisk, 0, "free some"))
	}
	return errors.Join(failed...)
}

// checkJournalDisk counts what the journal holds already as free.
func (d *dev) checkJournalDisk() error {
	settings, _, err := d.settings()
	if err != nil {
		return err
	}
	used, err := sizeOf(d.data)
	if err != nil {
		return fmt.Errorf("--data: %w: name a folder that can be read", err)
	}
	return enoughDisk(d.data, "the journal", journalDisk(settings.JournalMaxBytes), used,
		"free some, name another folder with --data, or set JOURNAL_MAX_BYTES lower")
}

// journalDisk is what a journal's streams may grow to: docs/settings.md.
func journalDisk(maxBytes int64) int64 { return max(0, maxBytes)/8*12 + journal.WorkersBytes }

func enoughDisk(folder, who string, need, used int64, advice string) error {
	free, err := freeDisk(folder)
	if err != nil {
		return fmt.Errorf("free disk of %s: %w", folder, err)
	}
	if free+used < need {
		return fmt.Errorf("%s may take %d MB in %s, where %d MB are free: %s", who, need>>20, folder, free>>20, advice)
	}
	return nil
}

// sizeOf adds up the files below a folder.
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
