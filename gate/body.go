package gate

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"rayexecutor/deliberation"
)

var (
	errBody = &deliberation.Error{
		Code: deliberation.TooLarge, Field: "request",
		Message: "the body is too large: send at most 1 MiB an event or request, and fewer events a batch",
	}
	errSlow = &deliberation.Error{
		Code: deliberation.Unavailable, Field: "request", RetryAfter: time.Second,
		Message: "its body did not arrive in time; repeating is safe",
	}
)

// body reads a request's body, decompressed, and counts it. It goes no further
// than the door's limit.
type body struct {
	visit  *visit
	door   *Door
	source io.ReadCloser
	plain  io.Reader // source, or what decompresses it
	zip    *gzip.Reader
	length int64 // as declared; below 1: unknown
	read   int64
	held   int64 // counted bytes
	failed error
}

// setBody puts the counting body in place of a request's. Content-Encoding is
// read here for every door, and the compression of single messages that gRPC
// and Connect's streams have.
func (v *visit) setBody(r *http.Request, door *Door) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := &v.body
	*b = body{visit: v, door: door, source: r.Body, plain: r.Body, length: r.ContentLength}
	r.Body = b
	switch coding := r.Header.Get("Content-Encoding"); {
	case isGzip(coding):
		r.Header.Del("Content-Encoding")
		r.ContentLength, b.length = -1, -1
		b.plain = &inflating{from: b}
	case isGzip(r.Header.Get("Grpc-Encoding")), isGzip(r.Header.Get("Connect-Content-Encoding")):
		b.plain, b.length = &frames{from: b}, -1
	case coding != "" && !strings.EqualFold(coding, "identity"):
		return deliberation.Invalidf("content-encoding", "%q is not read here: send gzip, or the body as it is", deliberation.Short(coding))
	}
	return nil
}

func isGzip(coding string) bool { return strings.EqualFold(coding, "gzip") }

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	n, err := b.plain.Read(p)
	if n > 0 {
		if counting := b.count(int64(n)); counting != nil {
			n, err = 0, counting
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.convert(err)
		b.failed = err
	}
	return n, err
}

// count counts what has been read.
func (b *body) count(n int64) error {
	b.read += n
	return b.need(b.read)
}

// usual is what a body is taken to have when it does not say: a request, and
// what frames it.
const usual = 1<<20 + 64<<10

// need counts a body that has so many bytes at least. It counts all that is to
// come at once: bodies that wait for more of what others hold, while those do
// the same, would all wait in vain. One that sends little counts nothing.
func (b *body) need(bytes int64) error {
	if bytes > b.door.MaxBody {
		return errBody
	}
	if bytes <= small || bytes <= b.held {
		return nil
	}
	whole := b.door.MaxBody
	switch {
	case bytes <= b.length:
		whole = b.length
	case bytes <= usual:
		whole = min(usual, whole)
	}
	if err := wait(b.visit.Context, b.visit.gate.bodies, whole-b.held, "memory"); err != nil {
		return err
	}
	b.held = whole
	return nil
}

// convert converts an error to one that the door's handler recognises.
func (b *body) convert(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errSlow
	}
	if coded, ok := errors.AsType[*deliberation.Error](err); ok && b.door.ReadError != nil {
		return b.door.ReadError(coded)
	}
	return err
}

// Close implements io.Closer.
func (b *body) Close() error { return b.source.Close() }

var unzippers sync.Pool

// unzip returns a reader of what is compressed in from; there is one a body.
func (b *body) unzip(from io.Reader) (*gzip.Reader, error) {
	if b.zip == nil {
		b.zip, _ = unzippers.Get().(*gzip.Reader)
	}
	if b.zip == nil {
		reader, err := gzip.NewReader(from)
		b.zip = reader
		return reader, err
	}
	return b.zip, b.zip.Reset(from)
}

// release gives back what the body holds.
func (b *body) release() {
	if b.held > 0 {
		b.visit.gate.bodies.Release(b.held)
		b.held = 0
	}
	if b.zip != nil {
		unzippers.Put(b.zip)
		b.zip = nil
	}
}

// inflating reads a body that is compressed whole.
type inflating struct {
	from   *body
	opened bool
}

// Read implements io.Reader.
func (i *inflating) Read(p []byte) (int, error) {
	if !i.opened {
		if _, err := i.from.unzip(i.from.source); err != nil {
			return 0, malformed(err)
		}
		i.opened = true
	}
	n, err := i.from.zip.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = malformed(err)
	}
	return n, err
}

// malformed says that what was to be gzip is not; an error of the connection
// stays what it is.
func malformed(err error) error {
	if errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isCorrupt(err) {
		return deliberation.Invalidf("content-encoding", "says gzip, and the body cannot be decompressed")
	}
	return err
}
