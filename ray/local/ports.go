package local

import (
	"context"
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
// to all of them, so that two Rays that start at once, in any processes,
// get different blocks, and a process that dies lets go of its own.
type ports struct {
	base  int
	claim net.Listener
	// gcs and head are where Ray's GCS and dashboard listen.
	gcs, head int
}

// claim finds a free block. gcs and dashboard replace its own where not 0.
func claim(gcs, dashboard int) (*ports, error) {
	blocks := rand.Perm((lastPort - firstPort) / block) //nolint:gosec // to be apart, not secret
	for _, i := range blocks {
		base := firstPort + i*block
		held, err := listen(base)
		if err != nil {
			continue
		}
		if allFree(base+1, base+block) {
			return &ports{base: base, claim: held, gcs: or(gcs, base+1), head: or(dashboard, base+2)}, nil
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

func (p *ports) dashboard() int { return p.head }

func flag(name string, port int) string { return "--" + name + "=" + strconv.Itoa(port) }

// ofHead name the ports that only a head has.
func (p *ports) ofHead() []string {
	return []string{
		flag("port", p.gcs),
		flag("dashboard-port", p.head),
		flag("ray-client-server-port", p.base+6),
	}
}

// arguments name every other port that Ray would otherwise choose itself.
func (p *ports) arguments() []string {
	return []string{
		flag("dashboard-agent-listen-port", p.base+3),
		flag("dashboard-agent-grpc-port", p.base+4),
		flag("metrics-export-port", p.base+5),
		flag("runtime-env-agent-port", p.base+7),
		flag("node-manager-port", p.base+8),
		flag("object-manager-port", p.base+9),
		flag("min-worker-port", p.base+firstWorker),
		flag("max-worker-port", p.base+block-1),
	}
}

func listen(port int) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// allFree reports whether every port from first up to below end can be taken.
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
