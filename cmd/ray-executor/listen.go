// The ports of the server: which addresses it listens on, and what to do about
// one that is not available.

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"rayexecutor/config"
)

// loopback has the addresses of config.Loopback. Clients of http://localhost
// try either one first.
var loopback = []string{"127.0.0.1", "::1"}

// portAttempts bounds the search for a port that is free on both addresses.
const portAttempts = 20

// listeners are the open ports of a function server.
type listeners struct {
	http, grpc []net.Listener
	// grpcError is why GRPC_PORT is not open, if it should be.
	grpcError error
}

func (l listeners) all() []net.Listener { return slices.Concat(l.http, l.grpc) }

func (l listeners) close() { closeAll(l.all()) }

// url is the server's URL for clients on this machine.
func (l listeners) url() string {
	address := l.http[0].Addr().(*net.TCPAddr)
	if address.IP.IsLoopback() || address.IP.IsUnspecified() {
		return "http://localhost:" + strconv.Itoa(address.Port)
	}
	return "http://" + address.String()
}

// openListeners listens on PORT and on GRPC_PORT. If GRPC_PORT has its default
// and is taken, that is no error: gRPC is served on PORT too.
func openListeners(ctx context.Context, settings config.Config) (listeners, error) {
	var open listeners
	var err error
	if open.http, err = (portSetting{"PORT", settings.Port}).listen(ctx, settings.Host); err != nil {
		return listeners{}, err
	}
	if settings.GRPCPort == 0 || settings.GRPCPort == portOf(open.http[0]) {
		return open, nil
	}
	open.grpc, err = portSetting{"GRPC_PORT", settings.GRPCPort}.listen(ctx, settings.Host)
	if err != nil && !settings.GRPCDefault {
		open.close()
		return listeners{}, err
	}
	open.grpcError = err
	return open, nil
}

// portSetting is a port and the name of its setting.
type portSetting struct {
	name string
	port int
}

// listen listens on a host's port. On the loopback interface it listens on the
// IPv4 and the IPv6 address, if the machine has IPv6. Port 0 is any free port.
func (p portSetting) listen(ctx context.Context, host string) ([]net.Listener, error) {
	if host != config.Loopback {
		listener, err := listen(ctx, host, p.port)
		if err != nil {
			return nil, p.advise(host, err)
		}
		return []net.Listener{listener}, nil
	}
	for attempt := 1; ; attempt++ {
		listeners, err := listenOnLoopback(ctx, p.port)
		if err == nil {
			return listeners, nil
		}
		if p.port != 0 || attempt == portAttempts {
			return nil, p.advise(host, err)
		}
	}
}

// listenOnLoopback fails if another program has the port on either address:
// clients would reach one program or the other.
func listenOnLoopback(ctx context.Context, port int) ([]net.Listener, error) {
	first, err := listen(ctx, loopback[0], port)
	if err != nil {
		return nil, err
	}
	second, err := listen(ctx, loopback[1], portOf(first))
	switch {
	case err == nil:
		return []net.Listener{first, second}, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, errors.Join(err, first.Close())
	}
	return []net.Listener{first}, nil // the machine has no IPv6
}

func listen(ctx context.Context, host string, port int) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
}

// advise adds to an error of listen what to change.
func (p portSetting) advise(host string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s=%d: %w: set another port, such as %s=%d", p.name, p.port, err, p.name, p.another())
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s=%d: %w: set a port above 1023, such as %s=8080", p.name, p.port, err, p.name)
	}
	return fmt.Errorf("HOST=%s: %w: set HOST to an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all", host, err)
}

func (p portSetting) another() int {
	if p.port < 65535 {
		return p.port + 1
	}
	return p.port - 1
}

func portOf(listener net.Listener) int { return listener.Addr().(*net.TCPAddr).Port }

func closeAll(listeners []net.Listener) {
	for _, listener := range listeners {
		_ = listener.Close() // nothing was written to it
	}
}
