package local

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

const (
	// firstPort to lastPort lie above the ports that other Rays give their
	// workers (10002–19999) and below those that the kernel hands out.
	firstPort, lastPort = 20000, 32000
	// block is how many ports one Ray takes.
	block = 200
	// firstWorker is the first worker's place in a block.
	firstWorker = 20
)

// ports are those of one Ray. The first of the block is held open as the claim
// to all of them, so that two Rays that start at once, in whatever processes,
// get different blocks, and a process that dies lets go of its own.
type ports struct {
	base            int
	claim           net.Listener
	gcs, dashboardP int
}

// claim finds a free block. gcs and dashboard replace its own where not 0.
func claim(gcs, dashboard int) (*ports, error) {
	blocks := rand.Perm((lastPort - firstPort) / block)
	for _, i := range blocks {
		base := firstPort + i*block
		held, err := listen(base)
		if err != nil {
			continue
		}
		if allFree(base+1, base+block) {
			return &ports{base: base, claim: held, gcs: or(gcs, base+1), dashboardP: or(dashboard, base+2)}, nil
		}
		if err := held.Close(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no %d free ports in a row between %d and %d for a local Ray", block, firstPort, lastPort)
}

func (p *ports) release() error {
	if err := p.claim.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (p *ports) dashboard() int { return p.dashboardP }

// arguments name every port that Ray would otherwise choose itself.
func (p *ports) arguments() []string {
	var arguments []string
	for _, flag := range []struct {
		name string
		port int
	}{
		{"port", p.gcs},
		{"dashboard-port", p.dashboardP},
		{"dashboard-agent-listen-port", p.base + 3},
		{"dashboard-agent-grpc-port", p.base + 4},
		{"metrics-export-port", p.base + 5},
		{"ray-client-server-port", p.base + 6},
		{"runtime-env-agent-port", p.base + 7},
		{"node-manager-port", p.base + 8},
		{"object-manager-port", p.base + 9},
		{"min-worker-port", p.base + firstWorker},
		{"max-worker-port", p.base + block - 1},
	} {
		arguments = append(arguments, "--"+flag.name+"="+strconv.Itoa(flag.port))
	}
	return arguments
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// allFree tells whether every port from first up to below end can be taken.
func allFree(first, end int) bool {
	for port := first; port < end; port++ {
		held, err := listen(port)
		if err != nil || held.Close() != nil {
			return false
		}
	}
	return true
}

func or(port, other int) int {
	if port != 0 {
		return port
	}
	return other
}
