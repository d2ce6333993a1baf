package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const (
	// prefix begins the names of the directories.
	prefix = "ray-local-"
	// maxDir is the longest directory below which Ray's sockets still fit into
	// the 107 characters of a Unix socket's path.
	maxDir = 43
)

// directory holds a Ray's files. Only its owner may look inside (0700): Ray gives
// everybody every right to what lies below it.
type directory struct {
	path string
	// lock is held, by flock(2), as long as this process or Ray's minder lives.
	lock *os.File
}

// makeDirectory makes a directory and takes its lock. The lock gets its name once
// it is held, so that sweep never finds it free before.
func makeDirectory(parent string) (*directory, error) {
	path, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return nil, fmt.Errorf("directory for a local Ray: %w", err)
	}
	d := &directory{path: path}
	if len(d.files()) > maxDir {
		err = fmt.Errorf("directory for a local Ray: %s is too long for Ray's sockets: name one below %d characters", path, maxDir)
		return nil, errors.Join(err, d.remove())
	}
	if d.lock, err = os.OpenFile(lockOf(path)+".new", os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err == nil {
		err = errors.Join(flock(d.lock), os.Rename(d.lock.Name(), lockOf(path)))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("directory for a local Ray: %w", err), d.remove())
	}
	return d, nil
}

// files is what Ray is given. It makes it itself, writable by everybody.
func (d *directory) files() string { return filepath.Join(d.path, "r") }

// link makes a name for a Python environment that has no space in it: Ray starts
// its workers by a shell, and quotes nothing.
func (d *directory) link(venv string) (string, error) {
	name := filepath.Join(d.path, "venv")
	if err := os.Symlink(venv, name); err != nil {
		return "", fmt.Errorf("directory for a local Ray: %w", err)
	}
	return name, nil
}

func (d *directory) remove() error {
	err := os.RemoveAll(d.path)
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

func lockOf(directory string) string { return filepath.Join(directory, "lock") }

func flock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// sweep removes this user's directories whose owner and minder have died, and
// returns their paths. It is the last resort: a minder that outlives its owner
// removes the directory itself.
func sweep(parent string) []string {
	found, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return nil // the pattern is good
	}
	var removed []string
	for _, path := range found {
		if isOurs(path) && removeOrphan(path) {
			removed = append(removed, path)
		}
	}
	return removed
}

// isOurs reports whether a path is a directory of this user, and no link.
func isOurs(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

func removeOrphan(path string) bool {
	lock, err := os.OpenFile(lockOf(path), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer lock.Close()
	return flock(lock) == nil && os.RemoveAll(path) == nil
}
