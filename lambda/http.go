package lambda

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
)

// serve answers an HTTP request.
func (h *Host) serve(ctx context.Context, from *events.APIGatewayV2HTTPRequest) (*events.LambdaFunctionURLResponse, error) {
	request, err := newRequest(ctx, from)
	if err != nil {
		return nil, err
	}
	if needsNATS(request.URL.Path) {
		h.wake(ctx)
	}
	return h.handle(request).response(), nil
}

// needsNATS reports whether a request does work: probes and metrics do not.
func needsNATS(path string) bool {
	return !strings.HasPrefix(path, "/health/") && path != "/metrics"
}

// handle lets the function answer a request, and records the answer.
func (h *Host) handle(request *http.Request) *recorder {
	answer := &recorder{header: make(http.Header)}
	h.function.Handle(answer, request)
	answer.WriteHeader(http.StatusOK) // of a handler that wrote nothing
	return answer
}

// newRequest makes an HTTP request of one in payload format 2.0, in which a
// header that was sent several times is one whose values are joined by commas.
func newRequest(ctx context.Context, from *events.APIGatewayV2HTTPRequest) (*http.Request, error) {
	body := []byte(from.Body)
	if from.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(from.Body); err != nil {
			return nil, fmt.Errorf("the body is marked as base64 and is not: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, from.RequestContext.HTTP.Method, "/", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("requestContext.http.method: %w", err)
	}
	for name, value := range from.Headers {
		request.Header.Set(name, value)
	}
	if len(from.Cookies) > 0 {
		request.Header.Set("Cookie", strings.Join(from.Cookies, "; "))
	}
	request.URL = target(from)
	request.RequestURI = request.URL.RequestURI()
	request.Host = cmp.Or(request.Header.Get("Host"), from.RequestContext.DomainName)
	request.RemoteAddr = from.RequestContext.HTTP.SourceIP
	request.Header.Del("Host")
	return request, nil
}

// target is what a request asks for, without the stage that API Gateway puts
// before the path.
func target(from *events.APIGatewayV2HTTPRequest) *url.URL {
	path := "/" + strings.TrimPrefix(from.RawPath, "/")
	if stage := from.RequestContext.Stage; stage != "" && stage != "$default" {
		if rest, found := strings.CutPrefix(path+"/", "/"+stage+"/"); found {
			path = "/" + strings.TrimSuffix(rest, "/")
		}
	}
	// API Gateway hands the path on decoded, a Function URL as it was sent.
	plain, err := url.PathUnescape(path)
	if err != nil {
		plain = path
	}
	return &url.URL{Path: plain, RawPath: path, RawQuery: from.RawQueryString}
}

// recorder stores an answer. Lambda sends it whole, so there is nothing to
// flush.
type recorder struct {
	header http.Header
	sent   http.Header // header as it was when the status was written
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// Flush implements http.Flusher, without which nobody streams.
func (r *recorder) Flush() {}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	// 1xx come before the answer; the first other one is it.
	if r.status == 0 && status >= http.StatusOK {
		r.status, r.sent = status, r.header.Clone()
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(data []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(data)
}

// response is the answer as Lambda wants it.
func (r *recorder) response() *events.LambdaFunctionURLResponse {
	response := &events.LambdaFunctionURLResponse{
		StatusCode: r.status, Headers: make(map[string]string, len(r.sent)), Cookies: r.sent.Values("Set-Cookie"),
	}
	for name, values := range r.sent {
		if name != "Set-Cookie" && len(values) > 0 {
			response.Headers[name] = strings.Join(values, ", ")
		}
	}
	if isText(r.sent) && utf8.Valid(r.body.Bytes()) {
		response.Body = r.body.String()
	} else {
		response.Body = base64.StdEncoding.EncodeToString(r.body.Bytes())
		response.IsBase64Encoded = true
	}
	return response
}

// isText reports whether a body may be sent as text in JSON; another is base64.
func isText(header http.Header) bool {
	if header.Get("Content-Encoding") != "" {
		return false
	}
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	return err == nil && (strings.HasPrefix(media, "text/") || media == "application/json" || strings.HasSuffix(media, "+json"))
}
