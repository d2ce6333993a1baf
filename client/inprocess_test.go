package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"

	"rayexecutor/client"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

// inProcess calls a handler without a network, so that tests run in a bubble of
// testing/synctest: no test waits for real time.
type inProcess struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (p inProcess) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := request.Context().Err(); err != nil {
		return nil, err
	}
	reader, writer := io.Pipe()
	w := &pipeWriter{header: make(http.Header), body: writer, begun: make(chan struct{})}
	served := request.Clone(request.Context())
	served.RequestURI, served.RemoteAddr = request.URL.RequestURI(), "192.0.2.1:1"
	go func() {
		defer func() {
			if recover() != nil {
				writer.CloseWithError(io.ErrUnexpectedEOF) // http.ErrAbortHandler
			}
			w.WriteHeader(http.StatusOK)
			writer.Close()
		}()
		p.handler.ServeHTTP(w, served)
	}()
	context.AfterFunc(request.Context(), func() { reader.CloseWithError(request.Context().Err()) })
	select {
	case <-w.begun:
		return &http.Response{
			StatusCode: w.status, Status: http.StatusText(w.status), Header: w.sent, Body: reader,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: -1, Request: request,
		}, nil
	case <-request.Context().Done():
		return nil, request.Context().Err()
	}
}

// pipeWriter is the http.ResponseWriter of inProcess.
type pipeWriter struct {
	header, sent http.Header
	status       int
	body         *io.PipeWriter
	begun        chan struct{} // closed once status and sent are set
	once         sync.Once
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.begun)
	})
}

func (w *pipeWriter) Write(data []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(data)
}

func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

// away is a server that cannot be reached.
type away struct{}

func (away) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("connection refused")
}

// dial returns a client of a service in this process.
func dial(t *testing.T, service rayexecutorv1connect.RayExecutorServiceHandler, options client.Options) *client.Client {
	t.Helper()
	_, handler := rayexecutorv1connect.NewRayExecutorServiceHandler(service)
	options.Transport = inProcess{handler}
	return newClient(t, options)
}

func newClient(t *testing.T, options client.Options) *client.Client {
	t.Helper()
	c, err := client.New("http://ray-executor.example/", options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
