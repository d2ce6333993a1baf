//go:build linux || darwin

package main

import (
	"errors"
	"os"
	"syscall"
)

// lock takes a file's lock, for one or shared, or fails with errLocked. It is
// let go when the file is closed, at this process's death at the latest.
func lock(file *os.File, exclusive bool) error {
	how := syscall.LOCK_SH
	if exclusive {
		how = syscall.LOCK_EX
	}
	err := syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}

// freeDisk is how many bytes a user may still write below a folder.
func freeDisk(folder string) (int64, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(folder, &stat); err != nil {
		return 0, err
	}
	return int64(stat.Bavail * uint64(stat.Bsize)), nil
}
