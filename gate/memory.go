package gate

import (
	"errors"
	"fmt"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// LimitMemory sets GOMEMLIMIT to nine tenths of what the process's cgroup
// allows, so that the collector works harder before the kernel kills. A
// GOMEMLIMIT in the environment takes precedence; without a cgroup nothing is set.
func LimitMemory() error {
	_, err := memlimit.Set()
	if err == nil || errors.Is(err, memlimit.ErrNoCgroup) || errors.Is(err, memlimit.ErrCgroupsNotSupported) {
		return nil
	}
	return fmt.Errorf("read the cgroup's memory limit: %w; set GOMEMLIMIT", err)
}
