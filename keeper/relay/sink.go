package relay

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"rayexecutor/events"
)

// SinkOptions configure a sink.
type SinkOptions struct {
	// URL is http or https.
	URL string
	// Extensions are set on every event and replace its own of the same name.
	Extensions map[string]string
	// CACerts are further certificate authorities for the sink, in PEM.
	CACerts string
}

const (
	// postTimeout bounds one post. It covers a sink that scales up from zero.
	postTimeout = 30 * time.Second
	// longestRetryAfter bounds the Retry-After of a sink, which could otherwise
	// hold an end beyond the relay's patience.
	longestRetryAfter = time.Hour
)

// Sink is an HTTP endpoint that takes CloudEvents, such as a Knative broker. It is
// safe for concurrent use.
type Sink struct {
	options SinkOptions
	client  *http.Client
	now     func() time.Time
}

// NewSink returns a sink; nothing is sent yet. Close it after use.
func NewSink(options SinkOptions) (*Sink, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64
	if options.CACerts != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(options.CACerts)) {
			return nil, errors.New("K_CA_CERTS: holds no certificate in PEM")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	client := &http.Client{
		Transport: transport, Timeout: postTimeout,
		// A redirected POST would arrive as a GET, without the event.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Sink{options: options, client: client, now: time.Now}, nil
}

// Close closes idle connections.
func (s *Sink) Close() { s.client.CloseIdleConnections() }

// refusal is the reason why a sink did not take an event.
type refusal struct {
	reason string
	// permanent: a retry cannot succeed.
	permanent bool
	// after is the sink's Retry-After; 0 without one.
	after time.Duration
}

func (r *refusal) Error() string { return r.reason }

// Post sends an event once; nil means that the sink answered 2xx. The error is a
// *refusal.
func (s *Sink) Post(ctx context.Context, e event.Event) error {
	for name, value := range s.options.Extensions {
		e.SetExtension(name, value)
	}
	request, err := events.NewRequest(ctx, s.options.URL, &e)
	if err != nil {
		return &refusal{reason: "K_SINK: " + err.Error(), permanent: true}
	}
	response, err := s.client.Do(request)
	if err != nil {
		return &refusal{reason: err.Error()}
	}
	defer response.Body.Close()
	// The body is read to its end so that the connection can be used again.
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if response.StatusCode/100 == 2 {
		return nil
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(body), []byte("\n"))
	return &refusal{
		reason:    fmt.Sprintf("the sink answered %s: %s", response.Status, cmp.Or(string(line), "no more")),
		permanent: !retriable(response.StatusCode), after: retryAfter(response.Header, s.now()),
	}
}

// retriable reports whether a status is retried, by the rule of Knative's
// pkg/kncloudevents: 404 and 409 too, which routes and sinks answer while they are
// being set up.
func retriable(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return true
	default:
		return status >= http.StatusInternalServerError
	}
}

// retryAfter reads the Retry-After header: seconds, or a date.
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return min(max(0, time.Duration(min(seconds, 1<<20))*time.Second), longestRetryAfter)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, at.Sub(now)), longestRetryAfter)
	}
	return 0
}
