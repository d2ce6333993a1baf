package keeper

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"rayexecutor/events"
)

// SinkOptions says where ends are posted.
type SinkOptions struct {
	// URL is http or https.
	URL string
	// Extensions are set on every event, over what it has.
	Extensions map[string]string
	// CACerts are further certificate authorities for the sink, in PEM.
	CACerts string
}

const (
	// postTimeout is how long a sink may take, and scale up from zero.
	postTimeout = 30 * time.Second
	// firstRetry doubles from one retry to the next, up to slowestRetry.
	firstRetry   = 200 * time.Millisecond
	slowestRetry = time.Minute
	// longestRetryAfter bounds what a sink can ask for.
	longestRetryAfter = time.Hour
)

// Sink is an HTTP endpoint that takes CloudEvents, such as a Knative broker.
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

// refusal is why a sink did not take an event.
type refusal struct {
	reason string
	// permanent: trying again does not help.
	permanent bool
	// after is when the sink wants to be asked again; 0 where it does not say.
	after time.Duration
}

func (r *refusal) Error() string { return r.reason }

// Post sends an event once. The error is a *refusal.
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
	said, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // read, the connection can be used again
	if response.StatusCode/100 == 2 {
		return nil
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(said), []byte("\n"))
	return &refusal{
		reason:    fmt.Sprintf("the sink answered %s: %s", response.Status, cmp.Or(string(line), "no more")),
		permanent: !retriable(response.StatusCode), after: retryAfter(response.Header, s.now()),
	}
}

// retriable is Knative's choice (pkg/kncloudevents): 404 and 409 too, for
// routes and sinks that are still being set up.
func retriable(status int) bool {
	switch status {
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return true
	default:
		return status >= http.StatusInternalServerError
	}
}

// retryAfter reads seconds or a date.
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

// retryPause is how long an event waits after an attempt, counted from 1: twice
// as long each time, at least half of it, and never less than the sink asks.
func retryPause(attempt uint64, asked time.Duration) time.Duration {
	full := min(firstRetry<<min(max(attempt, 1)-1, 16), slowestRetry)
	return max(full/2+rand.N(full/2), asked) //nolint:gosec // spreads load, guards nothing
}
