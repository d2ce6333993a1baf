//go:build linux

package e2e_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stranger holds the ports that the test binary, run as another user, calls.
const stranger = "E2E_STRANGER"

// TestOurRayListensOnTheLoopbackAlone looks at the sockets of all its processes,
// the worker's replicas too.
func TestOurRayListensOnTheLoopbackAlone(t *testing.T) {
	found := rayListeners(t)
	if len(found) < 10 {
		t.Errorf("only %d listeners were found: %v", len(found), found)
	}
	for _, listener := range found {
		if !listener.address.Addr().Unmap().IsLoopback() {
			t.Errorf("%s listens on %s", listener.process, listener.address)
		}
	}
}

// TestStrangersGetNothing calls every port of our Ray as another user, without the
// token.
func TestStrangersGetNothing(t *testing.T) {
	response, err := sys.Ray().HTTP().Get(sys.Ray().Address() + "/api/version")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); strings.Contains(string(body), `"2.49.`) {
		t.Skip("Ray 2.49 has no tokens")
	}
	var ports []string
	for _, listener := range rayListeners(t) {
		ports = append(ports, strconv.Itoa(int(listener.address.Port())))
	}
	dir, err := os.MkdirTemp("/tmp", "stranger") // where another user may write
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	command := exec.CommandContext(t.Context(), "/proc/self/exe", ports...)
	command.Env, command.Dir = []string{stranger + "=" + filepath.Join(dir, "ran")}, "/"
	if os.Geteuid() == 0 {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	printed, err := command.CombinedOutput()
	if err != nil || len(printed) > 0 {
		t.Errorf("a stranger got: %v\n%s", err, printed)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); !os.IsNotExist(err) {
		t.Error("a stranger ran code")
	}
	if info, err := os.Stat(filepath.Dir(filepath.Dir(filepath.Dir(sys.Ray().Logs())))); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("Ray's directory: %v, %v", info, err)
	}
}

// listener is a port, and who listens there.
type listener struct {
	process string
	address netip.AddrPort
}

func rayListeners(t *testing.T) (found []listener) {
	t.Helper()
	addresses := listening(t)
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		pid, _ := strconv.Atoi(filepath.Base(path))
		if sys.Ray().Signal(pid, syscall.Signal(0)) != nil {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(path, "comm"))
		files, _ := filepath.Glob(filepath.Join(path, "fd", "*"))
		for _, file := range files {
			link, _ := os.Readlink(file)
			if address, ok := addresses[strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")]; ok {
				found = append(found, listener{process: strings.TrimSpace(string(name)), address: address})
			}
		}
	}
	return found
}

// listening are the TCP sockets that listen, by their inode.
func listening(t *testing.T) map[string]netip.AddrPort {
	t.Helper()
	addresses := map[string]netip.AddrPort{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil && !os.IsNotExist(err) { // a machine without IPv6
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 9 && fields[3] == "0A" {
				addresses[fields[9]] = readAddress(t, fields[1])
			}
		}
	}
	return addresses
}

// readAddress reads the kernel's form of an address: words of four bytes in the
// machine's order, and the port.
func readAddress(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	host, port, _ := strings.Cut(text, ":")
	words, err := hex.DecodeString(host)
	if err != nil {
		t.Fatal(err)
	}
	for word := range slices.Chunk(words, 4) {
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	address, _ := netip.AddrFromSlice(words)
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(address, uint16(number))
}

// callAsStranger is what the other user does. It prints what it should not get.
func callAsStranger(ports []string) {
	log.SetOutput(io.Discard) // net/http tells of gRPC's frames
	var calls sync.WaitGroup
	for _, port := range ports {
		address := net.JoinHostPort("127.0.0.1", port)
		calls.Go(func() { sendGarbage(address) })
		for _, path := range []string{"/", "/api/version", "/nodes?view=summary", "/api/serve/applications/", "/api/jobs/", "/logs"} {
			calls.Go(func() { askHTTP(address, path) })
		}
		for _, method := range []string{
			"/ray.rpc.NodeInfoGcsService/GetAllNodeInfo", "/ray.rpc.InternalKVGcsService/InternalKVKeys",
			"/ray.rpc.ActorInfoGcsService/GetAllActorInfo", "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
			"/ray.rpc.CoreWorkerService/PushTask", "/ray.rpc.CoreWorkerService/GetCoreWorkerStats", "/ray.rpc.CoreWorkerService/KillActor",
			"/ray.rpc.NodeManagerService/GetNodeStats", "/ray.rpc.NodeManagerService/RequestWorkerLease",
			"/ray.rpc.ObjectManagerService/Push", "/ray.rpc.ObjectManagerService/Pull", "/ray.rpc.RayletDriver/Init",
			"/ray.rpc.ReporterService/GetTraceback", "/ray.rpc.LogService/ListLogs",
			"/ray.serve.ASGIService/HandleRequest", "/ray.serve.ASGIService/HandleRequestStreaming",
		} {
			calls.Go(func() { askGRPC(address, method) })
		}
	}
	calls.Wait()
	os.Exit(0)
}

func sendGarbage(address string) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	_, _ = conn.Write(bytes.Repeat([]byte{0xff, 0x00, 0x80, 'x', '\n'}, 1000))
	_, _ = io.Copy(io.Discard, conn)
}

func askHTTP(address, path string) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		return
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	// Counters, and the page that asks for the token.
	harmless := bytes.HasPrefix(body, []byte("# HELP")) || path == "/" && bytes.HasPrefix(body, []byte("<!doctype html>"))
	if response.StatusCode < 400 && !harmless {
		fmt.Fprintf(os.Stdout, "GET %s%s: %s: %.200s\n", address, path, response.Status, body)
	}
}

// askGRPC calls a method with a pickle that would make a file.
func askGRPC(address, method string) {
	pickle := "cos\nsystem\n(S'touch " + os.Getenv(stranger) + "'\ntR."
	message := append([]byte{0x0a, byte(len(pickle))}, pickle...) // field 1
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Protocols: protocols, DisableKeepAlives: true}}
	request, err := http.NewRequest(http.MethodPost, "http://"+address+method, bytes.NewReader(append(frame, message...)))
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		return
	}
	request.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	response, err := client.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	status := response.Header.Get("Grpc-Status") + response.Trailer.Get("Grpc-Status")
	if response.StatusCode == http.StatusOK && (len(body) > 0 || status == "" || status == "0") {
		fmt.Fprintf(os.Stdout, "%s%s: gRPC status %q: %.200q\n", address, method, status, body)
	}
}
