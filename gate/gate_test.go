package gate_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"rayexecutor/deliberation"
	"rayexecutor/gate"
)

var limits = gate.Limits{Requests: 2, Streams: 1, Connections: 2, Reads: 1, Bodies: gate.MaxBody, Replies: gate.MaxBody, Sends: 1}

// knock sends a request through a gate to a handler and returns how it was
// refused, nil where it was not.
func knock(g *gate.Gate, body io.Reader, behind http.HandlerFunc, headers ...string) error {
	var refused error
	door := g.Before(&gate.Door{
		Handler: behind, MaxBody: gate.MaxBody,
		Refuse: func(_ http.ResponseWriter, _ *http.Request, err error) { refused = err },
	})
	r := httptest.NewRequest(http.MethodPost, "/", body)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	door.ServeHTTP(httptest.NewRecorder(), r)
	return refused
}

func wantCode(t *testing.T, err error, code deliberation.Code) {
	t.Helper()
	coded, ok := errors.AsType[*deliberation.Error](err)
	if !ok || coded.Code != code {
		t.Errorf("got %v, want %s", err, code)
	} else if code == deliberation.LimitReached && coded.RetryAfter == 0 {
		t.Errorf("%v does not say when to come back", err)
	}
}

// TestLimitsFitTheMemory, in any process.
func TestLimitsFitTheMemory(t *testing.T) {
	t.Parallel()
	if got := gate.For(256 << 20 * 9 / 10); got.Streams < 900 || got.Streams > 1000 || got.Bodies < gate.MaxBody || got.Bodies > 16<<20 {
		t.Errorf("a pod of 256 MiB is given %+v", got)
	}
	for _, memory := range []int64{0, 1 << 20, 64 << 20, 1 << 40, math.MaxInt64} {
		if got := gate.For(memory); got.Requests < 64 || got.Reads < 4 || got.Bodies < gate.MaxBody || got.Replies < gate.MaxBody || got.Streams > 4096 {
			t.Errorf("%d bytes of memory allow %+v", memory, got)
		}
	}
}

// TestRequestsWaitForTheirTurn, and are refused when it does not come.
func TestRequestsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(limits)
		release := make(chan struct{})
		for range limits.Requests {
			go knock(g, http.NoBody, func(http.ResponseWriter, *http.Request) { <-release })
		}
		synctest.Wait()
		wantCode(t, knock(g, http.NoBody, func(http.ResponseWriter, *http.Request) { t.Error("one too many") }), deliberation.LimitReached)
		go func() { time.Sleep(time.Second); close(release) }()
		passed := false
		if err := knock(g, http.NoBody, func(http.ResponseWriter, *http.Request) { passed = true }); err != nil || !passed {
			t.Errorf("when others are done: %v", err)
		}
	})
}

// TestBodiesAreCounted together, decompressed, and given back.
func TestBodiesAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(limits)
		big := bytes.Repeat([]byte("x"), gate.MaxBody-1)
		release := make(chan struct{})
		go knock(g, bytes.NewReader(zip(t, big)), func(_ http.ResponseWriter, r *http.Request) {
			if got, err := io.ReadAll(r.Body); err != nil || len(got) != len(big) || r.Header.Get("Content-Encoding") != "" {
				t.Errorf("read %d bytes, %v, %v", len(got), err, r.Header)
			}
			<-release
		}, "Content-Encoding", "gzip")
		synctest.Wait()
		read := func(size int) (err error) {
			knock(g, bytes.NewReader(big[:size]), func(_ http.ResponseWriter, r *http.Request) { _, err = io.ReadAll(r.Body) })
			return err
		}
		if err := read(8 << 10); err != nil {
			t.Errorf("what is small waits for nothing: %v", err)
		}
		wantCode(t, read(100<<10), deliberation.LimitReached)
		close(release)
		synctest.Wait()
		if err := read(100 << 10); err != nil {
			t.Errorf("when the memory is given back: %v", err)
		}
	})
}

// TestBodiesAboveTheLimit are refused, whatever length they declare.
func TestBodiesAboveTheLimit(t *testing.T) {
	t.Parallel()
	g := gate.New(limits)
	large := make([]byte, gate.MaxBody+1)
	wantCode(t, knock(g, bytes.NewReader(large), func(http.ResponseWriter, *http.Request) { t.Error("it is let in") }), deliberation.TooLarge)
	for name, sent := range map[string]struct {
		body    io.Reader
		headers []string
	}{
		"of unknown length": {io.MultiReader(bytes.NewReader(large)), nil},
		"compressed":        {bytes.NewReader(zip(t, large)), []string{"Content-Encoding", "gzip"}},
		"in a message":      {io.MultiReader(strings.NewReader("\x01\x00\x00\x20\x00"), bytes.NewReader(zip(t, large)[:8192])), []string{"Grpc-Encoding", "gzip"}},
	} {
		var err error
		refused := knock(g, sent.body, func(_ http.ResponseWriter, r *http.Request) { _, err = io.Copy(io.Discard, r.Body) }, sent.headers...)
		if refused != nil {
			t.Errorf("%s: %v", name, refused)
		}
		if name != "in a message" { // which is cut, and so unreadable
			wantCode(t, err, deliberation.TooLarge)
		} else if err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}

// TestMessagesAreDecompressed one by one; those that are not compressed stay.
func TestMessagesAreDecompressed(t *testing.T) {
	t.Parallel()
	frame := func(flag byte, content []byte) []byte {
		return append([]byte{flag, 0, 0, byte(len(content) >> 8), byte(len(content))}, content...)
	}
	hello := []byte(strings.Repeat("hello ", 20))
	sent := bytes.Join([][]byte{frame(1, zip(t, hello)), frame(0, hello), frame(1, nil), frame(2, hello), frame(1, zip(t, nil))}, nil)
	want := bytes.Join([][]byte{frame(0, hello), frame(0, hello), frame(1, nil), frame(2, hello), frame(0, nil)}, nil)
	for _, reader := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, oneByte} {
		err := knock(gate.New(limits), reader(bytes.NewReader(sent)), func(_ http.ResponseWriter, r *http.Request) {
			if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %q, %v, want %q", got, err, want)
			}
		}, "Grpc-Encoding", "gzip")
		if err != nil {
			t.Error(err)
		}
	}
}

func oneByte(r io.Reader) io.Reader {
	from, to := io.Pipe()
	go func() {
		buffer := make([]byte, 1)
		for {
			n, err := r.Read(buffer)
			if err != nil {
				to.CloseWithError(err)
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	return from
}

// TestStreamsAreBounded, and count as requests no longer.
func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	g := gate.New(limits)
	refused := knock(g, http.NoBody, func(_ http.ResponseWriter, r *http.Request) {
		end, err := gate.Stream(r.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range limits.Requests {
			defer knockHolding(t, g)()
		}
		knock(gate.New(limits), http.NoBody, func(_ http.ResponseWriter, r *http.Request) { _, err = gate.Stream(r.Context()) })
		if err != nil {
			t.Errorf("another instance has its own: %v", err)
		}
		end()
		if end, err = gate.Stream(r.Context()); err != nil {
			t.Errorf("after one has ended: %v", err)
		}
		_, err = gate.Stream(r.Context())
		wantCode(t, err, deliberation.LimitReached)
		end()
	})
	if refused != nil {
		t.Error(refused)
	}
}

// knockHolding has a request inside until what it returns is called.
func knockHolding(t *testing.T, g *gate.Gate) func() {
	t.Helper()
	inside, release, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if err := knock(g, http.NoBody, func(http.ResponseWriter, *http.Request) { close(inside); <-release }); err != nil {
			t.Error(err)
			close(inside)
		}
	}()
	<-inside
	return func() { close(release); <-done }
}

// TestTake counts until the request ends, Borrow until it is given back; what
// never fits is TooLarge; without a gate nothing is counted.
func TestTake(t *testing.T) {
	t.Parallel()
	g := gate.New(limits)
	if err := gate.Take(t.Context(), math.MaxInt); err != nil {
		t.Error(err)
	}
	for range 2 {
		refused := knock(g, http.NoBody, func(_ http.ResponseWriter, r *http.Request) {
			for range 5 {
				ctx, back := gate.Borrow(r.Context())
				if err := gate.Take(ctx, gate.MaxBody); err != nil {
					t.Error(err)
				}
				back()
			}
			wantCode(t, gate.Take(r.Context(), 2*gate.MaxBody), deliberation.TooLarge)
		})
		if refused != nil {
			t.Error(refused)
		}
	}
	knock(g, http.NoBody, func(_ http.ResponseWriter, r *http.Request) {
		done, err := gate.Reading(r.Context())
		if err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		if _, err := gate.Reading(ctx); err != nil {
			t.Errorf("it has its turn until it ends: %v", err)
		}
		done()
		knock(g, http.NoBody, func(_ http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			if _, err := gate.Reading(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("another request reads: %v", err)
			}
		})
	})
}

// TestTheIdlestConnectionMakesRoom for a new one; those in use stay.
func TestTheIdlestConnectionMakesRoom(t *testing.T) {
	t.Parallel()
	connections := gate.NewConnections(2)
	open := func() (conn net.Conn, closed func() bool) {
		ours, theirs := net.Pipe()
		connections.Track(ours, http.StateNew)
		return ours, func() bool {
			_ = theirs.SetReadDeadline(time.Now())
			_, err := theirs.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		}
	}
	used, usedClosed := open()
	connections.Track(used, http.StateActive)
	first, firstClosed := open()
	_, secondClosed := open()
	if usedClosed() || !firstClosed() || secondClosed() {
		t.Errorf("closed are %v %v %v; want the idle one", usedClosed(), firstClosed(), secondClosed())
	}
	_, thirdClosed := open()
	if usedClosed() || !secondClosed() || thirdClosed() {
		t.Errorf("a connection is closed twice")
	}
	connections.Track(first, http.StateClosed)
	connections.Track(first, http.StateClosed)
}

func zip(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkPass is what the gate adds to a small request.
func BenchmarkPass(b *testing.B) {
	g := gate.New(gate.For(math.MaxInt64))
	door := g.Before(&gate.Door{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }),
		MaxBody: gate.MaxBody,
	})
	content := strings.Repeat("x", 300)
	body := strings.NewReader(content)
	r := httptest.NewRequest(http.MethodPost, "/", body)
	w := httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(content)
		door.ServeHTTP(w, r)
	}
}
