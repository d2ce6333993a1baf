package heavy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// target is a server under attack.
type target struct {
	url      string
	address  string
	http1    *http.Client
	http2    *http.Client
	answered sync.Map // how often, by attack and status
}

// attack is what one kind of hostile caller does until ctx ends, or it has done
// enough.
type attack struct {
	name string
	run  func(ctx context.Context, t *target)
}

func newTarget(url string) *target {
	client := func(set func(*http.Protocols)) *http.Client {
		var protocols http.Protocols
		set(&protocols)
		return &http.Client{Timeout: time.Minute, Transport: &http.Transport{Protocols: &protocols, MaxIdleConnsPerHost: 64}}
	}
	return &target{
		url: url, address: strings.TrimPrefix(url, "http://"),
		http1: client(func(p *http.Protocols) { p.SetHTTP1(true) }), http2: client(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }),
	}
}

// send posts a body and reads the answer, however long it is.
func (t *target) send(ctx context.Context, name string, client *http.Client, path, contentType string, body []byte, headers ...string) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url+path, bytes.NewReader(body))
	if err != nil {
		return
	}
	r.Header.Set("Content-Type", contentType)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	t.do(name, client, r)
}

func (t *target) get(ctx context.Context, name, path string) {
	if r, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, http.NoBody); err == nil {
		t.do(name, t.http1, r)
	}
}

func (t *target) do(name string, client *http.Client, r *http.Request) {
	response, err := client.Do(r)
	if err != nil {
		t.count(name, "cut")
		return
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	t.count(name, response.Status[:3])
}

func (t *target) count(name, how string) {
	counter, _ := t.answered.LoadOrStore(name+" "+how, new(atomic.Int64))
	counter.(*atomic.Int64).Add(1)
}

func (t *target) counts() string {
	var all []string
	t.answered.Range(func(name, n any) bool {
		all = append(all, fmt.Sprint(name, ": ", n.(*atomic.Int64).Load()))
		return true
	})
	return strings.Join(all, ", ")
}

// times runs something so often, so many at once, unless ctx ends.
func times(ctx context.Context, n, atOnce int, do func(i int)) {
	var group sync.WaitGroup
	places := make(chan struct{}, atOnce)
	for i := range n {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			group.Wait()
			return
		}
		group.Go(func() {
			defer func() { <-places }()
			do(i)
		})
	}
	group.Wait()
}

const execute = "/ray_executor.v1.RayExecutorService/ExecuteDeliberation"

// slowBodies is the attack whose connections the server must cut.
const slowBodies = "slow bodies"

// attacks are all that the outside review has tried, and their kin.
func attacks(tb testing.TB) []attack {
	zeros, agents := zip(tb, make([]byte, 512<<20)), bytes.Repeat([]byte{0x2a, 0}, 4<<20)
	zippedAgents := zip(tb, agents)
	inJSON := []byte(`{"agents":[` + strings.Repeat("{},", 8<<20/3-10) + `{}]}`)
	placeholder := fmt.Appendf(nil, `{"task_id":"t","task_description":"d","role":"r","agents":[{"id":"a","prompt_template":"{%s}"}]}`, strings.Repeat("x", 1<<20-200))
	grpc := []string{"Grpc-Encoding", "gzip", "Te", "trailers"}
	event := []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "ray_executor.v1.ExecuteDeliberationRequest"}
	post := func(name string, n, atOnce int, http2 bool, path, contentType string, body []byte, headers ...string) attack {
		return attack{name, func(ctx context.Context, t *target) {
			client := t.http1
			if http2 {
				client = t.http2
			}
			times(ctx, n, atOnce, func(int) { t.send(ctx, name, client, path, contentType, body, headers...) })
		}}
	}
	return []attack{
		post("gzip to health", 20, 4, true, "/grpc.health.v1.Health/Check", "application/grpc", frame(zeros), grpc...),
		post("gzip to reflection", 20, 4, true, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "application/grpc", frame(zeros), grpc...),
		post("gzip to Connect", 20, 4, false, "/grpc.health.v1.Health/Check", "application/proto", zeros, "Content-Encoding", "gzip"),
		post("agents in protobuf", 60, 8, true, execute, "application/grpc", frame(zippedAgents), grpc...),
		post("agents in JSON", 40, 8, false, "/v1/deliberations", "application/json", inJSON),
		post("agents in an event", 40, 8, false, "/", "application/cloudevents+json", structured(agents[:1<<20])),
		post("agents in a binary event", 40, 8, false, "/", "application/protobuf", agents[:1<<20], event...),
		post("a batch of nothings", 20, 4, false, "/", "application/cloudevents-batch+json", append(append([]byte("["), bytes.Repeat([]byte("{},"), 8<<20/3-10)...), "{}]"...)),
		post("a long placeholder", 40, 8, false, "/v1/deliberations", "application/json", placeholder),
		{"lists", func(ctx context.Context, t *target) {
			times(ctx, 16, 8, func(int) { t.get(ctx, "lists", "/v1/deliberations?page_size=200&state=queued") })
			times(ctx, 16, 8, func(int) { t.get(ctx, "lists", "/v1/deliberations?page_size=200") })
		}},
		post("batches of lists", 6, 3, false, "/", "application/cloudevents-batch+json", lists()),
		{"statuses", func(ctx context.Context, t *target) {
			times(ctx, 300, 64, func(i int) { t.get(ctx, "statuses", fmt.Sprintf("/v1/deliberations/large-%d", i%stored)) })
		}},
		{"large submissions", func(ctx context.Context, t *target) {
			times(ctx, 256, 256, func(i int) {
				t.send(ctx, "large submissions", t.http1, "/v1/deliberations", "application/json", large(i))
			})
		}},
		{"streams", func(ctx context.Context, t *target) { streams(ctx, t, 4000, "/v1/deliberations/quiet/events", true) }},
		{"streams that are not read", func(ctx context.Context, t *target) { streams(ctx, t, 100, "/v1/deliberations/large-0/events", false) }},
		{"idle connections", idle},
		{slowBodies, slow},
	}
}

// structured is an event with data in base64.
func structured(data []byte) []byte {
	return []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"ray_executor.v1.ExecuteDeliberationRequest",` +
		`"datacontenttype":"application/protobuf","data_base64":"` + base64.StdEncoding.EncodeToString(data) + `"}`)
}

// lists is a batch of ten lists.
func lists() []byte {
	one := `{"specversion":"1.0","id":"%d","source":"/s","type":"ray_executor.v1.ListDeliberationsRequest","data":{"page_size":200}}`
	var all []string
	for i := range 10 {
		all = append(all, fmt.Sprintf(one, i))
	}
	return []byte("[" + strings.Join(all, ",") + "]")
}

// large is a request of almost 1 MiB that is in order.
func large(i int) []byte {
	text := make([]byte, 700<<10)
	_, _ = rand.Read(text)
	return fmt.Appendf(nil, `{"task_id":"t","task_description":%q,"role":"r","agents":[{"id":"a"}],"deliberation_id":"submitted-%d"}`,
		base64.StdEncoding.EncodeToString(text), i)
}

// streams opens so many and holds them until ctx ends.
func streams(ctx context.Context, t *target, n int, path string, read bool) {
	times(ctx, n, 64, func(int) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
		if err != nil {
			t.count("streams", "not connected")
			return
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		if !read {
			return
		}
		status := make([]byte, len("HTTP/1.1 200"))
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(conn, status); err != nil {
			t.count("streams", "cut")
			return
		}
		t.count("streams", string(status[9:]))
	})
	<-ctx.Done()
}

// idle holds connections that ask nothing.
func idle(ctx context.Context, t *target) {
	times(ctx, 2000, 64, func(int) {
		if conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address); err == nil {
			context.AfterFunc(ctx, func() { conn.Close() })
		}
	})
	<-ctx.Done()
}

// slow sends bodies a byte now and then.
func slow(ctx context.Context, t *target) {
	times(ctx, 200, 200, func(int) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST /v1/deliberations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{")
		for ctx.Err() == nil {
			if _, err := conn.Write([]byte(" ")); err != nil {
				t.count(slowBodies, "cut")
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
}

func zip(tb testing.TB, plain []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// frame is a compressed message as gRPC sends it.
func frame(compressed []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(compressed))), compressed...)
}
