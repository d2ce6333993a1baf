package main

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"rayexecutor/config"
	"rayexecutor/tests/freeport"
)

func parsed(t *testing.T, settings ...string) config.Config {
	t.Helper()
	parsed, err := config.Load(append([]string{"PORT=0", "GRPC_PORT=0"}, settings...))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// outer is an address of this machine that is not on the loopback.
func outer(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if ip := address.(*net.IPNet).IP; ip.IsGlobalUnicast() && ip.To4() != nil {
			return ip.String()
		}
	}
	t.Skip("this machine has the loopback alone")
	return ""
}

func reaches(host string, port int) bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(host, strconv.Itoa(port)), 2*time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// hasIPv6 says whether this machine has ::1.
func hasIPv6() bool {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		listener.Close()
	}
	return err == nil
}

func TestListensOnTheLoopbackAlone(t *testing.T) {
	t.Parallel()
	for host, open := range map[string]bool{"": false, "localhost": false, "127.0.0.1": false, "0.0.0.0": true, "::": true} {
		if host == "::" && !hasIPv6() {
			continue
		}
		doors, err := openListeners(t.Context(), parsed(t, "HOST="+host))
		if err != nil {
			t.Fatal(err)
		}
		port := portOf(doors.http[0])
		if !reaches("127.0.0.1", port) || reaches("::1", port) != (hasIPv6() && host != "127.0.0.1") {
			t.Errorf("HOST=%s: the loopback does not reach it", host)
		}
		if reaches(outer(t), port) != open {
			t.Errorf("HOST=%s: reached from outside: %t", host, !open)
		}
		if want := "http://localhost:" + strconv.Itoa(port); doors.url() != want {
			t.Errorf("HOST=%s: it is at %s", host, doors.url())
		}
		doors.close()
	}
}

// A port that another program has, on either address of the loopback, is reported
// with what to set.
func TestATakenPort(t *testing.T) {
	t.Parallel()
	for _, host := range loopback {
		if host == "::1" && !hasIPv6() {
			continue
		}
		taken, err := listen(t.Context(), host, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		number := strconv.Itoa(portOf(taken))
		_, err = openListeners(t.Context(), parsed(t, "PORT="+number))
		if err == nil || !strings.Contains(err.Error(), "PORT="+number+": ") || !strings.Contains(err.Error(), "set another port") {
			t.Errorf("PORT is taken on %s: %v", host, err)
		}
		_, err = openListeners(t.Context(), parsed(t, "GRPC_PORT="+number))
		if err == nil || !strings.Contains(err.Error(), "GRPC_PORT="+number+": ") {
			t.Errorf("GRPC_PORT is taken on %s: %v", host, err)
		}
		settings := parsed(t, "GRPC_PORT="+number)
		settings.GRPCDefault = true
		doors, err := openListeners(t.Context(), settings)
		if err != nil || doors.grpcError == nil || len(doors.all()) != len(doors.http) {
			t.Errorf("a default GRPC_PORT is taken on %s: %v, %+v", host, err, doors)
		}
		doors.close()
	}
}

func TestAnAddressOfAnotherMachine(t *testing.T) {
	t.Parallel()
	_, err := openListeners(t.Context(), parsed(t, "HOST=192.0.2.1"))
	if err == nil || !strings.Contains(err.Error(), "HOST=192.0.2.1") || !strings.Contains(err.Error(), "0.0.0.0 for all") {
		t.Error(err)
	}
}

func TestGRPCHasAPortOfItsOwn(t *testing.T) {
	t.Parallel()
	port := freeport.For(t)
	settings := parsed(t)
	settings.GRPCPort = port
	doors, err := openListeners(t.Context(), settings)
	if err != nil || doors.grpcError != nil || len(doors.grpc) == 0 || portOf(doors.grpc[0]) != port {
		t.Fatalf("%+v, %v", doors, err)
	}
	doors.close()
}
