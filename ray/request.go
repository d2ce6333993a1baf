package ray

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// readWait bounds a question to the dashboard.
	readWait = 10 * time.Second
	// writeWait bounds what may start Serve's controller or move megabytes.
	writeWait = 2 * time.Minute
	// maxReply bounds a reply, in bytes: a thousand nodes are about 20 MB.
	maxReply = 64 << 20
	// maxReason bounds what an error quotes of a reply, in characters.
	maxReason = 300
)

// request is one call of the dashboard.
type request struct {
	method, path string
	// body is sent as contentType, if it is not nil.
	body        []byte
	contentType string
	// wait bounds the whole call.
	wait time.Duration
}

func get(path string) request {
	return request{method: http.MethodGet, path: path, wait: readWait}
}

func put(path, contentType string, body []byte) request {
	return request{method: http.MethodPut, path: path, contentType: contentType, body: body, wait: writeWait}
}

// statusError is a reply that is not 200.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// hasStatus reports whether an error is a reply with this status.
func hasStatus(err error, status int) bool {
	reply, ok := errors.AsType[*statusError](err)
	return ok && reply.status == status
}

// Refused reports whether an error is a cluster's refusal of the token, or of none.
func Refused(err error) bool {
	return hasStatus(err, http.StatusUnauthorized) || hasStatus(err, http.StatusForbidden)
}

// read makes a request and decodes its JSON reply.
func read[T any](ctx context.Context, c *Client, path string) (T, error) {
	var reply T
	body, err := c.do(ctx, get(path))
	if err != nil {
		return reply, err
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return reply, fmt.Errorf("%s: the reply is not what Ray's dashboard says (%w): is %s a Ray dashboard?",
			c.about(get(path)), err, c.Address())
	}
	return reply, nil
}

// do is the one place where a request is made and its status checked. Its
// errors name the cluster, the request and what to do.
func (c *Client) do(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	response, err := c.send(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w%s", c.about(r), err, c.remedy(err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReply+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: the reply broke off: %w", c.about(r), err)
	case response.StatusCode != http.StatusOK:
		return nil, c.refused(r, response, body)
	case len(body) > maxReply:
		return nil, fmt.Errorf("%s: the reply is larger than %d bytes", c.about(r), maxReply)
	}
	return body, nil
}

func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.method, c.dashboard.String()+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	// Not a browser's name: to those Ray shows runtime_envs with secrets redacted.
	request.Header.Set("User-Agent", "ray-executor")
	if r.contentType != "" {
		request.Header.Set("Content-Type", r.contentType)
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	return c.http.Do(request)
}

func (c *Client) about(r request) string {
	return fmt.Sprintf("cluster %q: %s %s", c.name, r.method, r.path)
}

func (c *Client) refused(r request, response *http.Response, body []byte) error {
	text := fmt.Sprintf("%s answered %s", c.about(r), response.Status)
	if why := reason(body); why != "" {
		text += ": " + why
	}
	return &statusError{status: response.StatusCode, text: text + c.advice(response)}
}

// advice is what to do about a status.
func (c *Client) advice(response *http.Response) string {
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		if c.token == "" {
			return ": set RAY_AUTH_TOKEN to the cluster's token"
		}
		return ": RAY_AUTH_TOKEN is not the token that this cluster takes"
	case status >= 300 && status < 400:
		return fmt.Sprintf(": it points to %q, which is not followed; give the dashboard's own address",
			response.Header.Get("Location"))
	case status == http.StatusNotFound:
		return fmt.Sprintf(": is %s a Ray dashboard, of ray[default] 2.49 or newer?", c.Address())
	case status >= 500:
		return ": see dashboard.log on the Ray head"
	}
	return ""
}

// remedy is what to do about a request that got no reply.
func (c *Client) remedy(err error) string {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return ": check the host's name in RAY_ADDRESS"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return ": the dashboard's certificate is not trusted here"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf(": is the cluster up, and its dashboard at %s?", c.Address())
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf(": no answer in time; is %s reachable from here?", c.Address())
	}
	return ""
}

// reason is the informative line of a reply that refuses: the message of Ray's own
// JSON, the last line of a Python traceback, else the first line.
func reason(body []byte) string {
	var reply struct {
		Message string `json:"msg"`
	}
	text := string(body)
	if json.Unmarshal(body, &reply) == nil && reply.Message != "" {
		text = reply.Message
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	line := lines[0]
	if strings.HasPrefix(line, "Traceback") {
		line = lines[len(lines)-1]
	}
	return shorten(strings.TrimSpace(line))
}

func shorten(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if utf8.RuneCountInString(text) <= maxReason {
		return text
	}
	return string([]rune(text)[:maxReason]) + "…"
}
