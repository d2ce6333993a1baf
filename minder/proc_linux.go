package minder

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// descends reports whether a process descends from another, which must be a
// subreaper that has not been reaped.
//
// A parent that ends hands its children on before its pid is free. So if a
// process still has the same parent after that parent was looked at, no other
// process was looked at in its place.
func descends(pid, ancestor int) bool {
	parent := parentOf(pid)
	switch {
	case parent <= 1 && parent != ancestor:
		return false
	case parent != ancestor && !descends(parent, ancestor):
		return false
	}
	return parentOf(pid) == parent
}

// childrenOf are the children of a process, ended ones too.
func childrenOf(pid int) []int {
	directories, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil // the pattern is good
	}
	var children []int
	for _, directory := range directories {
		child, err := strconv.Atoi(filepath.Base(directory))
		if err == nil && parentOf(child) == pid {
			children = append(children, child)
		}
	}
	return children
}

// parentOf is a process's parent; 0 where there is none, or no such process.
func parentOf(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// pid (name) state ppid …, and the name may hold anything.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}
