package standin_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"rayexecutor/standin"
)

// pipeNet hands out connections in memory: ten thousand need no sockets.
type pipeNet struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeNet() *pipeNet { return &pipeNet{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipeNet) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipeNet) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipeNet) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p *pipeNet) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

func rawPost(body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

func TestTenThousandStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("holds 10,000 connections")
	}
	t.Parallel()
	const streams = 10_000
	s, err := standin.New(standin.Options{Default: standin.Behaviour{Delay: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	pipes := newPipeNet()
	server := &http.Server{Handler: s}
	var group sync.WaitGroup
	group.Go(func() { _ = server.Serve(pipes) })
	conns := make([]net.Conn, streams)
	for i := range conns {
		conns[i] = pipes.dial()
		if _, err := conns[i].Write([]byte(rawPost(streamBody))); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range conns {
		status, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || status != "HTTP/1.1 200 OK\r\n" {
			t.Fatalf("%q %v", status, err)
		}
		group.Go(func() { // the rest of the headers and the first chunk
			for buf := make([]byte, 4096); ; {
				if _, err := conn.Read(buf); err != nil {
					return
				}
			}
		})
	}
	wait(t, s, func(n standin.Snapshot) bool { return n.Running == streams })
	for _, conn := range conns {
		conn.Close()
	}
	wait(t, s, func(n standin.Snapshot) bool { return n.Running == 0 && n.ClientClosed == streams })
	_ = server.Close()
	_ = pipes.Close()
	group.Wait()
}

// BenchmarkChat asks over loopback, on kept connections, with a client that
// does as little as it can.
func BenchmarkChat(b *testing.B) {
	_, web := setup(b, standin.Options{})
	request := []byte(rawPost(strings.ReplaceAll(body, "\t", "")))
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := new(net.Dialer).DialContext(b.Context(), "tcp", web.Listener.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		reader := bufio.NewReader(conn)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			if err := skipResponse(reader); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}

// skipResponse reads over one response.
func skipResponse(r *bufio.Reader) error {
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if line == "\r\n" {
			break
		}
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			if _, err := fmt.Sscan(value, &length); err != nil {
				return err
			}
		}
	}
	_, err := r.Discard(length)
	return err
}
