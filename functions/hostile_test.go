//go:build !race

package functions_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	cepb "github.com/cloudevents/sdk-go/binding/format/protobuf/v2/pb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"rayexecutor/gate"
)

// hostile is a request that means to take memory.
type hostile struct {
	path, contentType string
	body              []byte
	headers           []string // names and values in turn
	status            int      // 0: refused by gRPC's status
}

const execute = "/ray_executor.v1.RayExecutorService/ExecuteDeliberation"

// TestNoRequestTakesMuchMemory: what a request allocates, until it is refused,
// does not follow from what it would become. It must not run beside others,
// whose allocations would count.
func TestNoRequestTakesMuchMemory(t *testing.T) {
	d := open(t)
	for name, one := range hostiles(t) {
		t.Run(name, func(t *testing.T) {
			before := allocated()
			response := d.send(t, one)
			answer, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			most := uint64(5*gate.MaxBody + 6*len(one.body))
			if took := allocated() - before; took > most {
				t.Errorf("a body of %d bytes takes %d MB", len(one.body), took>>20)
			}
			if len(answer) > 4<<10 {
				t.Errorf("the refusal has %d bytes", len(answer))
			}
			refused := response.StatusCode == one.status
			if one.status == 0 {
				refused = response.Header.Get("Grpc-Status")+response.Trailer.Get("Grpc-Status") != "0" || bytes.Contains(answer, []byte("grpc-status"))
			}
			if !refused {
				t.Errorf("answered %s %.300s", response.Status, answer)
			}
		})
	}
}

func hostiles(t *testing.T) map[string]hostile {
	zeros := make([]byte, 64<<20)
	agents := bytes.Repeat([]byte{0x2a, 0}, 4<<20)
	inJSON := []byte(`{"agents":[` + strings.Repeat("{},", 2<<20) + `{}]}`)
	deep := bytes.Repeat([]byte("["), 4<<20)
	grpc := []string{"Grpc-Encoding", "gzip", "Te", "trailers"}
	zipped := []string{"Content-Encoding", "gzip"}
	event := func(more ...string) []string {
		return append(more, "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "ray_executor.v1.ExecuteDeliberationRequest")
	}
	envelope := protobufEvent(t, agents[:1<<20])
	return map[string]hostile{
		"health, gRPC":          {"/grpc.health.v1.Health/Check", "application/grpc", frame(t, zeros), grpc, 0},
		"health, Connect":       {"/grpc.health.v1.Health/Check", "application/proto", zip(t, zeros), zipped, 429},
		"reflection":            {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "application/grpc", frame(t, zeros), grpc, 0},
		"reflection, alpha":     {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "application/grpc", frame(t, zeros), grpc, 0},
		"agents, gRPC":          {execute, "application/grpc", frame(t, agents), grpc, 0},
		"agents, gRPC-Web":      {execute, "application/grpc-web+proto", frame(t, agents), grpc, 0},
		"agents, Connect":       {execute, "application/proto", zip(t, agents), zipped, 400},
		"agents, Connect JSON":  {execute, "application/json", zip(t, inJSON), zipped, 400},
		"agents, REST":          {"/v1/deliberations", "application/json", inJSON, nil, 413},
		"agents, REST, zipped":  {"/v1/deliberations", "application/json", zip(t, inJSON), zipped, 413},
		"agents, event":         {"/", "application/protobuf", agents[:1<<20], event(), 413},
		"agents, event, zipped": {"/", "application/protobuf", zip(t, agents[:1<<20]), event(zipped...), 413},
		"agents, JSON event":    {"/", "application/json", inJSON, event(), 413},
		"agents, structured": {"/", "application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"ray_executor.v1.ExecuteDeliberationRequest",` +
			`"datacontenttype":"application/protobuf","data_base64":"` + base64.StdEncoding.EncodeToString(agents[:1<<20]) + `"}`), nil, 413},
		"agents, protobuf envelope":     {"/", "application/cloudevents+protobuf", envelope, nil, 413},
		"attributes, protobuf envelope": {"/", "application/cloudevents+protobuf", bytes.Repeat([]byte{0x2a, 0}, 4<<20), nil, 413},
		"a batch of nothings":           {"/", "application/cloudevents-batch+json", []byte("[" + strings.Repeat("{},", 2<<20) + "{}]"), nil, 413},
		"a batch, zipped":               {"/", "application/cloudevents-batch+json", zip(t, zeros), zipped, 413},
		"deep, REST":                    {"/v1/deliberations", "application/json", deep, nil, 413},
		"deep, structured":              {"/", "application/cloudevents+json", deep, nil, 413},
		"a list of zeros":               {execute, "application/json", zip(t, zeros), zipped, 429},
		"not gzip":                      {"/v1/deliberations", "application/json", []byte("{}"), zipped, 400},
		"another coding":                {"/v1/deliberations", "application/json", []byte("{}"), []string{"Content-Encoding", "br"}, 400},
		"a long placeholder":            {"/v1/deliberations", "application/json", submissionWith(`"agents":[{"id":"a","prompt_template":"{` + strings.Repeat("x", 1<<19) + `}"}]`), nil, 400},
		"a long broken placeholder":     {"/v1/deliberations", "application/json", submissionWith(`"agents":[{"id":"a","prompt_template":"{a` + strings.Repeat(".x", 1<<18) + `}"}]`), nil, 400},
		"a long field":                  {"/v1/deliberations", "application/json", submissionWith(`"` + strings.Repeat("x", 1<<19) + `":1`), nil, 400},
		"a long metadata key":           {"/v1/deliberations", "application/json", submissionWith(`"constraints":{"metadata":{"` + strings.Repeat("x", 1<<19) + `":""}}`), nil, 400},
		"a long type":                   {"/", "application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"` + strings.Repeat("x", 1<<19) + `"}`), nil, 400},
		"a long time":                   {"/", "application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"` + strings.Repeat("x", 1<<19) + `"}`), nil, 400},
		"a long data content type": {"/", "application/cloudevents+json", []byte(`{"specversion":"1.0","id":"1","source":"/s","type":"ray_executor.v1.GetStatusRequest","datacontenttype":"` +
			strings.Repeat("x", 1<<19) + `","data":{}}`), nil, 400},
		"a long service": {"/grpc.health.v1.Health/Check", "application/json", []byte(`{"service":"` + strings.Repeat("x", 1<<15) + `"}`), nil, 404},
	}
}

func submissionWith(more string) []byte {
	return []byte(`{"task_id":"t","task_description":"d","role":"DEV",` + more + `}`)
}

// protobufEvent is an event whose data is protobuf, in protobuf.
func protobufEvent(t *testing.T, data []byte) []byte {
	t.Helper()
	text := func(value string) *cepb.CloudEventAttributeValue {
		return &cepb.CloudEventAttributeValue{Attr: &cepb.CloudEventAttributeValue_CeString{CeString: value}}
	}
	envelope, err := proto.Marshal(&cepb.CloudEvent{
		Id: "1", Source: "/s", SpecVersion: "1.0", Type: "ray_executor.v1.ExecuteDeliberationRequest",
		Attributes: map[string]*cepb.CloudEventAttributeValue{"datacontenttype": text("application/protobuf")},
		Data:       &cepb.CloudEvent_BinaryData{BinaryData: data},
	})
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func (d *doors) send(t *testing.T, one hostile) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url+one.path, bytes.NewReader(one.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", one.contentType)
	for i := 0; i < len(one.headers); i += 2 {
		r.Header.Set(one.headers[i], one.headers[i+1])
	}
	response, err := d.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func zip(t *testing.T, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// frame is a compressed message as gRPC sends it.
func frame(t *testing.T, plain []byte) []byte {
	t.Helper()
	compressed := zip(t, plain)
	return append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(compressed))), compressed...)
}

func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

// TestCompressedIsTaken: what is compressed and small enough is read at every
// door.
func TestCompressedIsTaken(t *testing.T) {
	t.Parallel()
	f := setup(t)
	mux := http.NewServeMux()
	f.Mount(mux)
	for path, contentType := range map[string]string{"/v1/deliberations": "application/json", execute: "application/json"} {
		r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(zip(t, []byte(submission))))
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Content-Encoding", "gzip")
		got := httptest.NewRecorder()
		if mux.ServeHTTP(got, r); got.Code/100 != 2 {
			t.Errorf("%s answers %d %s", path, got.Code, got.Body)
		}
	}
	message := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "never-was")
	r := httptest.NewRequest(http.MethodPost, "/ray_executor.v1.RayExecutorService/GetDeliberationStatus", bytes.NewReader(frame(t, message)))
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Grpc-Encoding", "gzip")
	r.ProtoMajor = 2
	got := httptest.NewRecorder()
	if mux.ServeHTTP(got, r); got.Result().Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("gRPC answers %v %v", got.Result().Header, got.Result().Trailer)
	}
}
