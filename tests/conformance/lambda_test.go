package conformance_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	awsevents "github.com/aws/aws-lambda-go/events"
	"google.golang.org/protobuf/proto"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/lambda"
	"rayexecutor/tests/system"
)

// invocationTime is the function's timeout, as its operator sets it. While NATS
// is away a function waits for it as long as this lets it.
const invocationTime = 20 * time.Second

// lambdaREST is the JSON routes behind a Function URL, where nothing streams.
type lambdaREST struct{ routes *rest }

func (f *lambdaREST) name() string { return "Lambda REST" }

func (f *lambdaREST) call(ctx context.Context, c call) (*outcome, error) {
	return f.routes.call(ctx, c)
}

func (f *lambdaREST) wire(request proto.Message, code string, isNew bool) string {
	return f.routes.wire(request, code, isNew)
}

// lambdaDoors are the doors of a function on AWS Lambda with a Function URL.
// tests/lambda runs the program itself; here is its host.
func lambdaDoors(t *testing.T, sys *system.System, timeout *atomic.Int64) []door {
	t.Helper()
	settings, err := config.Load(sys.Environ())
	if err != nil {
		t.Fatal(err)
	}
	served := function.New()
	if err := served.StartWith(settings, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(functionURL(lambda.NewHost(served, slog.New(slog.DiscardHandler)), timeout))
	t.Cleanup(func() {
		gateway.Close()
		_ = served.Stop(context.WithoutCancel(t.Context()))
	})
	return []door{
		&eventDoor{title: "Lambda event", url: gateway.URL, codec: inProtobuf, envelope: binaryMode},
		&lambdaREST{&rest{gateway.URL}},
	}
}

// functionURL does what AWS does: it makes an invocation of a request (payload
// format 2.0), and an answer of what the function returns.
func functionURL(host *lambda.Host, timeout *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Duration(timeout.Load()))
		defer cancel()
		answered, err := invoke(ctx, host, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		body := []byte(answered.Body)
		if answered.IsBase64Encoded {
			if body, err = base64.StdEncoding.DecodeString(answered.Body); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
		}
		for name, value := range answered.Headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(answered.StatusCode)
		_, _ = w.Write(body)
	}
}

func invoke(ctx context.Context, host *lambda.Host, r *http.Request) (*awsevents.LambdaFunctionURLResponse, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	invocation := awsevents.LambdaFunctionURLRequest{
		Version: "2.0", RawPath: r.URL.EscapedPath(), RawQueryString: r.URL.RawQuery, Headers: make(map[string]string), Body: string(body),
		RequestContext: awsevents.LambdaFunctionURLRequestContext{
			HTTP: awsevents.LambdaFunctionURLRequestContextHTTPDescription{Method: r.Method, Path: r.URL.Path},
		},
	}
	for name, values := range r.Header {
		invocation.Headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	if !utf8.Valid(body) || !strings.Contains(r.Header.Get("Content-Type"), "json") {
		invocation.Body, invocation.IsBase64Encoded = base64.StdEncoding.EncodeToString(body), true
	}
	payload, err := json.Marshal(invocation)
	if err != nil {
		return nil, err
	}
	returned, err := host.Invoke(ctx, payload)
	if err != nil {
		return nil, err
	}
	if payload, err = json.Marshal(returned); err != nil {
		return nil, err
	}
	answered := new(awsevents.LambdaFunctionURLResponse)
	return answered, json.Unmarshal(payload, answered)
}
