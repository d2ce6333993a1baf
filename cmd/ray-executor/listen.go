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

// loopback are the addresses of config.Loopback: callers of http://localhost
// try either first.
var loopback = []string{"127.0.0.1", "::1"}

// portTries is how often a port is chosen that must be free on two addresses.
const portTries = 20

// doors are what a function server listens on.
type doors struct {
	http, grpc []net.Listener
	// grpcTaken says why nothing listens on GRPC_PORT; nil where something
	// does, or nothing should.
	grpcTaken error
}

func (d doors) all() []net.Listener { return slices.Concat(d.http, d.grpc) }

func (d doors) close() { closeAll(d.all()) }

// url is the server's, for callers on this machine.
func (d doors) url() string {
	address := d.http[0].Addr().(*net.TCPAddr)
	if address.IP.IsLoopback() || address.IP.IsUnspecified() {
		return "http://localhost:" + strconv.Itoa(address.Port)
	}
	return "http://" + address.String()
}

// openDoors listens on PORT and on GRPC_PORT. A GRPC_PORT that nobody has set
// may be taken.
func openDoors(ctx context.Context, settings config.Config) (doors, error) {
	var open doors
	var err error
	if open.http, err = (portSetting{"PORT", settings.Port}).listen(ctx, settings.Host); err != nil {
		return doors{}, err
	}
	if settings.GRPCPort == 0 || settings.GRPCPort == portOf(open.http[0]) {
		return open, nil
	}
	open.grpc, err = portSetting{"GRPC_PORT", settings.GRPCPort}.listen(ctx, settings.Host)
	if err != nil && !settings.GRPCDefault {
		open.close()
		return doors{}, err
	}
	open.grpcTaken = err
	return open, nil
}

// portSetting is a port, and the setting that says it.
type portSetting struct {
	name string
	port int
}

// listen listens on a host's port: once, or twice on the loopback where there
// is IPv6. Port 0 is any that is free.
func (p portSetting) listen(ctx context.Context, host string) ([]net.Listener, error) {
	if host != config.Loopback {
		listener, err := listen(ctx, host, p.port)
		if err != nil {
			return nil, p.advise(host, err)
		}
		return []net.Listener{listener}, nil
	}
	for try := 1; ; try++ {
		listeners, err := listenOnLoopback(ctx, p.port)
		if err == nil {
			return listeners, nil
		}
		if p.port != 0 || try == portTries {
			return nil, p.advise(host, err)
		}
	}
}

// listenOnLoopback fails where another program has the port on either address:
// callers would reach now the one, now the other.
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
	return []net.Listener{first}, nil // there is no IPv6
}

func listen(ctx context.Context, host string, port int) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
}

// advise says what to do about a port that cannot be listened on.
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
