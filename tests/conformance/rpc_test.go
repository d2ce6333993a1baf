package conformance_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	fleetpb "rayexecutor/proto/fleet/ray_executor/v1"
	pb "rayexecutor/proto/ray_executor/v1"
)

// rpcPath is the path of a request's RPC: its package has one service.
func rpcPath(request proto.Message) string {
	file := request.ProtoReflect().Descriptor().ParentFile()
	return "/" + string(file.Package()) + ".RayExecutorService/" + method(request)
}

// overHTTP2 speaks HTTP/2 without TLS, as gRPC clients do within a cluster.
var overHTTP2 = &http.Client{Timeout: 30 * time.Second, Transport: withKey{&http.Transport{Protocols: unencrypted()}}}

func unencrypted() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// rpcCodes are gRPC's, by number.
var rpcCodes = []string{
	"ok", "canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
	"resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable",
	"data_loss", "unauthenticated",
}

// rpcWire is how the RPCs say a code.
func rpcWire(request proto.Message, code string) string {
	switch code {
	case conflict:
		return "already_exists"
	case tooLarge, limitReached:
		return "resource_exhausted"
	case notFound:
		switch request.(type) {
		case *pb.GetDeliberationStatusRequest, *fleetpb.GetDeliberationStatusRequest:
			return ok
		}
	}
	return code
}

// rpcRefused tells a refusal of an RPC. Its details name the field and the
// deliberation; an RPC library's own refusals have none.
func rpcRefused(wire, message, retryAfter string, detail *pb.Error) *outcome {
	o := &outcome{code: wire, detail: message}
	if detail != nil {
		o = refusedWith(detail)
	} else if wire == "resource_exhausted" {
		o.code = tooLarge
	}
	o.wire, o.retryAfter = wire, retryAfter
	return o
}

// framed is what gRPC, gRPC-Web and Connect's streams are made of: a byte of
// flags, four of length, then the data.
func framed(data []byte) []byte {
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data)))
	return append(frame, data...)
}

func readFrame(r io.Reader) (flags byte, data []byte, err error) {
	var prefix [5]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return 0, nil, err
	}
	data = make([]byte, binary.BigEndian.Uint32(prefix[1:]))
	_, err = io.ReadFull(r, data)
	return prefix[0], data, err
}

// grpc is the door of gRPC, and of gRPC-Web, where trailers travel in the body.
type grpc struct {
	url string
	web bool
}

func (f *grpc) name() string {
	if f.web {
		return "gRPC-Web"
	}
	return "gRPC"
}

func (f *grpc) wire(request proto.Message, code string, _ bool) string {
	return rpcWire(request, code)
}

func (f *grpc) call(ctx context.Context, c call) (*outcome, error) {
	var reply *outcome
	o, err := f.stream(ctx, c, func(data []byte) (bool, error) {
		var err error
		reply, err = inProtobuf.decode(data, c.request)
		return true, err
	})
	if err == nil && reply != nil && o.code == ok {
		reply.wire = o.wire
		return reply, nil
	}
	if err == nil && o.code == ok {
		err = errors.New("OK without a reply")
	}
	return o, err
}

// stream sends a request and hands on each message of the answer, until each
// wants no more.
func (f *grpc) stream(ctx context.Context, c call, each func([]byte) (more bool, err error)) (*outcome, error) {
	data, err := inProtobuf.encode(c)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+rpcPath(c.request), bytes.NewReader(framed(data)))
	if err != nil {
		return nil, err
	}
	client := overHTTP2
	request.Header = http.Header{"Content-Type": {"application/grpc+proto"}, "Te": {"trailers"}}
	if f.web {
		client = http1
		request.Header = http.Header{"Content-Type": {"application/grpc-web+proto"}, "X-Grpc-Web": {"1"}}
	}
	if c.trace != "" {
		request.Header.Set("Traceparent", c.trace)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != request.Header.Get("Content-Type") {
		return nil, fmt.Errorf("answered %s as %s", response.Status, response.Header.Get("Content-Type"))
	}
	return f.readAll(response, each)
}

func (f *grpc) readAll(response *http.Response, each func([]byte) (bool, error)) (*outcome, error) {
	for {
		flags, data, err := readFrame(response.Body)
		switch {
		case errors.Is(err, io.EOF):
			trailer := response.Trailer
			if response.Header.Get("Grpc-Status") != "" { // trailers only
				trailer = response.Header
			}
			return grpcOutcome(trailer)
		case err != nil:
			return nil, err
		case flags == 0x80 && f.web:
			trailer, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(data, "\r\n"...)))).ReadMIMEHeader()
			if err != nil {
				return nil, err
			}
			return grpcOutcome(http.Header(trailer))
		case flags != 0:
			return nil, fmt.Errorf("a frame has the flags %x", flags)
		}
		if more, err := each(data); err != nil || !more {
			return &outcome{code: ok}, err
		}
	}
}

func grpcOutcome(trailer http.Header) (*outcome, error) {
	number, err := strconv.Atoi(trailer.Get("Grpc-Status"))
	if err != nil || number >= len(rpcCodes) {
		return nil, fmt.Errorf("the status is %q: %v", trailer.Get("Grpc-Status"), trailer)
	}
	if number == 0 {
		return &outcome{code: ok, wire: ok}, nil
	}
	var status spb.Status
	if encoded := trailer.Get("Grpc-Status-Details-Bin"); encoded != "" {
		decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
		if err == nil {
			err = proto.Unmarshal(decoded, &status)
		}
		if err != nil || int(status.GetCode()) != number {
			return nil, fmt.Errorf("the details of %d are %v: %w", number, &status, err)
		}
	}
	message, err := url.PathUnescape(trailer.Get("Grpc-Message"))
	if err != nil {
		return nil, err
	}
	var detail *pb.Error
	for _, one := range status.GetDetails() {
		if one.MessageIs((*pb.Error)(nil)) {
			detail = new(pb.Error)
			if err := one.UnmarshalTo(detail); err != nil {
				return nil, err
			}
		}
	}
	return rpcRefused(rpcCodes[number], message, trailer.Get("Retry-After"), detail), nil
}

func (f *grpc) watch(ctx context.Context, request *pb.WatchDeliberationRequest, each func(*pb.WatchDeliberationResponse) bool) (*outcome, error) {
	return f.stream(ctx, call{request: request}, func(data []byte) (bool, error) {
		event := new(pb.WatchDeliberationResponse)
		err := proto.Unmarshal(data, event)
		return err == nil && each(event), err
	})
}

// connect is the door of Connect's own protocol, in JSON.
type connect struct{ url string }

func (f *connect) name() string { return "Connect JSON" }

func (f *connect) wire(request proto.Message, code string, _ bool) string {
	return rpcWire(request, code)
}

// connectError is an error as Connect has it in JSON.
type connectError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Details []struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	} `json:"details"`
}

// connectStatus is the HTTP status of a code.
var connectStatus = map[string]int{
	"invalid_argument": 400, "unauthenticated": 401, "permission_denied": 403, "not_found": 404, "already_exists": 409, "resource_exhausted": 429, "unavailable": 503,
}

func (e *connectError) outcome(retryAfter string) (*outcome, error) {
	if !slices.Contains(rpcCodes, e.Code) {
		return nil, fmt.Errorf("the code is %q", e.Code)
	}
	var detail *pb.Error
	for _, one := range e.Details {
		if one.Type == typeOf(detail) {
			value, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(one.Value, "="))
			if err != nil {
				return nil, err
			}
			detail = new(pb.Error)
			if err := proto.Unmarshal(value, detail); err != nil {
				return nil, err
			}
		}
	}
	return rpcRefused(e.Code, e.Message, retryAfter, detail), nil
}

func (f *connect) call(ctx context.Context, c call) (*outcome, error) {
	data, err := inJSON.encode(c)
	if err != nil {
		return nil, err
	}
	header := http.Header{"Content-Type": {inJSON.contentType}, "Connect-Protocol-Version": {"1"}}
	if c.trace != "" {
		header.Set("Traceparent", c.trace)
	}
	a, err := send(ctx, http1, http.MethodPost, f.url+rpcPath(c.request), header, data)
	if err != nil {
		return nil, err
	}
	if err := wantType(a, inJSON.contentType); err != nil {
		return nil, err
	}
	if a.status == http.StatusOK {
		o, err := inJSON.decode(a.body, c.request)
		if err == nil {
			o.wire = ok
		}
		return o, err
	}
	var refusal connectError
	if err := json.Unmarshal(a.body, &refusal); err != nil {
		return nil, err
	}
	if connectStatus[refusal.Code] != a.status {
		return nil, fmt.Errorf("%s is answered with %d", refusal.Code, a.status)
	}
	return refusal.outcome(a.header.Get("Retry-After"))
}

func (f *connect) watch(ctx context.Context, request *pb.WatchDeliberationRequest, each func(*pb.WatchDeliberationResponse) bool) (*outcome, error) {
	data, err := inJSON.marshal(request)
	if err != nil {
		return nil, err
	}
	sent, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url+rpcPath(request), bytes.NewReader(framed(data)))
	if err != nil {
		return nil, err
	}
	sent.Header = http.Header{"Content-Type": {"application/connect+json"}, "Connect-Protocol-Version": {"1"}}
	response, err := http1.Do(sent)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	for {
		flags, data, err := readFrame(response.Body)
		if err != nil {
			return nil, fmt.Errorf("the stream has no end: %w", err)
		}
		if flags&2 != 0 {
			return endOfStream(data)
		}
		event := new(pb.WatchDeliberationResponse)
		if err := inJSON.unmarshal(data, event); err != nil || !each(event) {
			return &outcome{code: ok, wire: ok}, err
		}
	}
}

func endOfStream(data []byte) (*outcome, error) {
	var end struct {
		Error    *connectError       `json:"error"`
		Metadata map[string][]string `json:"metadata"`
	}
	if err := json.Unmarshal(data, &end); err != nil || end.Error == nil {
		return &outcome{code: ok, wire: ok}, err
	}
	return end.Error.outcome(http.Header(end.Metadata).Get("Retry-After"))
}
