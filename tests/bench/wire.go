package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
)

// wire is one connection of HTTP/1.1 that sends one request after the other.
// It does as little as can be: the caller's costs are not what is measured, and
// it shares the cores with what is.
type wire struct {
	host   string
	conn   net.Conn
	reader *bufio.Reader
	out    bytes.Buffer
}

// wires are n connections to a server.
func wires(base string, n int) ([]*wire, func(), error) {
	target, err := url.Parse(base)
	if err != nil {
		return nil, nil, err
	}
	var all []*wire
	closeAll := func() {
		for _, one := range all {
			one.conn.Close()
		}
	}
	for range n {
		conn, err := net.Dial("tcp", target.Host)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		all = append(all, &wire{host: target.Host, conn: conn, reader: bufio.NewReader(conn)})
	}
	return all, closeAll, nil
}

// post sends a request and reads its answer, which must be a 2xx. Headers are
// pairs of name and value.
func (w *wire) post(ctx context.Context, path string, body []byte, headers ...string) ([]byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := w.conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	w.out.Reset()
	fmt.Fprintf(&w.out, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %s\r\n", path, w.host, strconv.Itoa(len(body)))
	for i := 0; i < len(headers); i += 2 {
		w.out.WriteString(headers[i] + ": " + headers[i+1] + "\r\n")
	}
	w.out.WriteString("\r\n")
	w.out.Write(body)
	if _, err := w.conn.Write(w.out.Bytes()); err != nil {
		return nil, err
	}
	return w.answer()
}

// answer reads a status, of the headers what tells the body's length, and the
// body.
func (w *wire) answer() ([]byte, error) {
	status, err := w.line()
	if err != nil {
		return nil, err
	}
	length, chunked := 0, false
	for {
		header, err := w.line()
		if err != nil {
			return nil, err
		}
		if header == "" {
			break
		}
		name, value, _ := strings.Cut(header, ":")
		switch strings.ToLower(name) {
		case "content-length":
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return nil, err
			}
		case "transfer-encoding":
			chunked = true
		}
	}
	body := io.LimitReader(w.reader, int64(length))
	if chunked {
		body = httputil.NewChunkedReader(w.reader)
	}
	answer, err := io.ReadAll(body)
	if err == nil && chunked {
		_, err = w.line() // the end of no trailers
	}
	if _, code, _ := strings.Cut(status, " "); err == nil && !strings.HasPrefix(code, "2") {
		err = fmt.Errorf("%s: %s", status, answer)
	}
	return answer, err
}

func (w *wire) line() (string, error) {
	line, err := w.reader.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// event sends a binary CloudEvent with protobuf data.
func (w *wire) event(ctx context.Context, id, kind string, data []byte) ([]byte, error) {
	return w.post(ctx, "/", data, "Ce-Specversion", "1.0", "Ce-Id", id, "Ce-Source", "/bench", "Ce-Type", kind,
		"Content-Type", "application/protobuf")
}
