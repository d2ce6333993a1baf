package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener within a synctest bubble.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case connection := <-p.connections:
		return connection, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.connections <- theirs
	return ours
}

// TestIdleAndSlowConnections: each is closed after the time of docs/limits.md.
func TestIdleAndSlowConnections(t *testing.T) {
	t.Parallel()
	send := func(t *testing.T, connection net.Conn, text string) {
		t.Helper()
		if _, err := io.WriteString(connection, text); err != nil {
			t.Fatal(err)
		}
	}
	for name, one := range map[string]struct {
		after time.Duration
		use   func(t *testing.T, connection net.Conn, background *sync.WaitGroup)
	}{
		"that sends nothing": {10 * time.Second, func(*testing.T, net.Conn, *sync.WaitGroup) {}},
		"with half of headers": {10 * time.Second, func(t *testing.T, connection net.Conn, _ *sync.WaitGroup) {
			send(t, connection, "GET / HTTP/1.1\r\nHost:")
		}},
		"with a slow body": {bodyTimeout, func(t *testing.T, connection net.Conn, background *sync.WaitGroup) {
			send(t, connection, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
			background.Go(func() {
				for { // until it is closed
					if _, err := connection.Write([]byte(" ")); err != nil {
						return
					}
					time.Sleep(3 * time.Second)
				}
			})
		}},
		"that does not read": {responseTimeout, func(t *testing.T, connection net.Conn, _ *sync.WaitGroup) {
			send(t, connection, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			time.Sleep(responseTimeout + time.Millisecond) // past the server's deadline
		}},
		"that is idle": {2 * time.Minute, func(t *testing.T, connection net.Conn, _ *sync.WaitGroup) {
			send(t, connection, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			response, err := http.ReadResponse(bufio.NewReader(connection), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, response.Body); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				listener := &pipes{connections: make(chan net.Conn), closed: make(chan struct{})}
				server := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if _, err := io.Copy(io.Discard, r.Body); err == nil {
						_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
					}
				}))
				ended := make(chan error, 1)
				go func() { ended <- server.Serve(listener) }()
				connection := listener.dial()
				began := time.Now()
				var background sync.WaitGroup
				one.use(t, connection, &background)
				_, _ = io.Copy(io.Discard, connection) // until the server closes it
				if after := time.Since(began); after < one.after || after > one.after+time.Second {
					t.Errorf("closed after %s, want %s", after, one.after)
				}
				connection.Close()
				background.Wait()
				server.Close()
				if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			})
		})
	}
}
