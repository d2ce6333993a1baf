package conformance_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	function "rayexecutor"
	"rayexecutor/config"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
)

// Whatever bytes come to a door, it answers as is documented, and never with
// what was not foreseen. The corpora are in testdata/fuzz;
// `go test -fuzz FuzzX ./tests/conformance` finds more.

// door is the function with all its doors, on a journal of its own.
func handler(f *testing.F) http.HandlerFunc {
	f.Helper()
	nats := journaltest.Start(f)
	journaltest.Connect(f, nats.URL)
	settings, err := config.Parse(map[string]string{
		"NATS_URL": nats.URL, "RAY_ADDRESS": "http://127.0.0.1:9", "VLLM_URL": "http://" + allowedHost, "VLLM_MODEL": "none",
	})
	if err != nil {
		f.Fatal(err)
	}
	served := function.New()
	if err := served.StartWith(settings, slog.New(slog.DiscardHandler)); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = served.Stop(context.Background()) })
	await.NoError(f, "the function", func() error {
		if ready, err := served.Ready(f.Context()); !ready {
			return fmt.Errorf("it is not ready: %w", err)
		}
		return nil
	})
	return served.Handle
}

// knock sends a request, and hangs up after a while: a watch may last.
func knock(t *testing.T, handler http.HandlerFunc, verb, target string, header http.Header, body []byte) *answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, verb, "http://door.test/", bytes.NewReader(body))
	if err != nil {
		t.Skip("no client could send this")
	}
	if request.URL, err = request.URL.Parse(target); err != nil || !strings.HasPrefix(request.URL.Path, "/") {
		t.Skip("no client could send this")
	}
	request.Header, request.RequestURI = header, request.URL.RequestURI()
	request.Proto, request.ProtoMajor, request.ProtoMinor = "HTTP/2.0", 2, 0
	recorder := httptest.NewRecorder()
	handler(recorder, request)
	result := recorder.Result()
	return &answer{result.StatusCode, result.Header, result.Trailer, recorder.Body.Bytes()}
}

// documented holds an answer against the contract's table; others are statuses
// that this door has besides.
func documented(t *testing.T, a *answer, others ...int) {
	t.Helper()
	retry := a.header.Get("Retry-After")
	switch {
	case a.status < http.StatusMultipleChoices:
	case slices.Contains(others, a.status):
		if a.status >= http.StatusBadRequest && a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d is answered with %q: %s", a.status, a.header.Get("Content-Type"), a.body)
		}
	default:
		if _, err := a.refused(); err != nil {
			t.Error(err)
		}
	}
	if wants := a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable; wants != (retry != "") {
		t.Errorf("%d has Retry-After %q", a.status, retry)
	}
}

var requests = []proto.Message{
	&pb.ExecuteDeliberationRequest{}, &pb.GetDeliberationStatusRequest{}, &pb.GetStatusRequest{}, &pb.GetActiveJobsRequest{},
	&pb.CancelDeliberationRequest{}, &pb.ListDeliberationsRequest{}, &pb.WatchDeliberationRequest{},
}

// FuzzEvents is the door of CloudEvents.
func FuzzEvents(f *testing.F) {
	handler := handler(f)
	f.Fuzz(func(t *testing.T, contentType, version, kind, id, source, name, value string, body []byte) {
		header := http.Header{}
		for key, text := range map[string]string{
			"Content-Type": contentType, "Ce-Specversion": version, "Ce-Type": kind, "Ce-Id": id, "Ce-Source": source,
			http.CanonicalHeaderKey("ce-" + name): value,
		} {
			if text != "" {
				header.Set(key, text)
			}
		}
		documented(t, knock(t, handler, http.MethodPost, "/", header, body))
	})
}

// FuzzREST is the door of the JSON routes.
func FuzzREST(f *testing.F) {
	handler := handler(f)
	f.Fuzz(func(t *testing.T, verb, target, contentType, key string, body []byte) {
		if !strings.HasPrefix(target, "/v1/") {
			t.Skip("this is another door")
		}
		header := http.Header{}
		for name, text := range map[string]string{"Content-Type": contentType, "Idempotency-Key": key, "Last-Event-Id": key, "Traceparent": key} {
			if text != "" {
				header.Set(name, text)
			}
		}
		documented(t, knock(t, handler, verb, target, header, body), // the router itself mends paths such as //
			http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusMovedPermanently, http.StatusTemporaryRedirect)
	})
}

// FuzzRPC is the door of gRPC, gRPC-Web and Connect.
func FuzzRPC(f *testing.F) {
	handler := handler(f)
	f.Fuzz(func(t *testing.T, which uint8, contentType, encoding, timeout string, frame bool, body []byte) {
		if frame {
			body = framed(body)
		}
		header := http.Header{"Content-Type": {contentType}, "Te": {"trailers"}}
		if encoding != "" {
			for _, name := range []string{"Grpc-Encoding", "Connect-Content-Encoding", "Content-Encoding"} {
				header.Set(name, encoding)
			}
		}
		if timeout != "" {
			header.Set("Grpc-Timeout", timeout)
			header.Set("Connect-Timeout-Ms", timeout)
		}
		request := requests[int(which)%len(requests)]
		a := knock(t, handler, http.MethodPost, rpcPath(request), header, body)
		code, found := rpcCode(a)
		if unforeseen := code == "internal" && !broken(a) || code == "unknown"; unforeseen || !found && a.status >= http.StatusInternalServerError {
			t.Errorf("answered %d, %s: %v %v %s", a.status, code, a.header, a.trailer, a.body)
		}
	})
}

// broken is about frames that are cut short or compressed wrongly: gRPC has
// INTERNAL for what its own library cannot read (statuscodes.md), and connect
// says that it is the protocol.
func broken(a *answer) bool {
	said := a.header.Get("Grpc-Message") + a.trailer.Get("Grpc-Message") + string(unBase64(a))
	return strings.Contains(said, "protocol error")
}

// rpcCode is the code of an answer in whichever of the three protocols.
func rpcCode(a *answer) (code string, found bool) {
	for _, header := range []http.Header{a.header, a.trailer} {
		if number, err := strconv.Atoi(header.Get("Grpc-Status")); err == nil && number < len(rpcCodes) {
			return rpcCodes[number], true
		}
	}
	var refusal connectError
	if json.Unmarshal(a.body, &refusal) == nil && refusal.Code != "" {
		return refusal.Code, true
	}
	if _, trailer, found := bytes.Cut(bytes.ToLower(unBase64(a)), []byte("grpc-status: ")); found {
		number, err := strconv.Atoi(strings.Fields(string(trailer) + " ")[0])
		return rpcCodes[min(number, len(rpcCodes)-1)], err == nil
	}
	return "", false
}

func unBase64(a *answer) []byte {
	if decoded, err := base64.StdEncoding.DecodeString(string(a.body)); err == nil && strings.Contains(a.header.Get("Content-Type"), "text") {
		return decoded
	}
	return a.body
}
