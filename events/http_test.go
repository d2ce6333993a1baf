package events_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	format "github.com/cloudevents/sdk-go/binding/format/protobuf/v2"
	cepb "github.com/cloudevents/sdk-go/binding/format/protobuf/v2/pb"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/golden"
)

// sent is the event that every golden form carries, with data of a type.
func sent(t testing.TB, contentType string) event.Event {
	t.Helper()
	data := []byte(`{"deliberation_id":"d-1"}`)
	if contentType == events.Protobuf {
		var err error
		if data, err = proto.Marshal(&pb.GetDeliberationStatusRequest{DeliberationId: "d-1"}); err != nil {
			t.Fatal(err)
		}
	}
	e := status(contentType, data)
	e.SetSubject(`100% "für" alle`)
	e.SetTime(time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC))
	e.SetExtension("traceparent", trace)
	e.DataBase64 = contentType == events.Protobuf
	return e
}

func post(body, contentType string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// TestHTTPForms reads each form of a request from its golden file, and writes
// the reply in the same form.
func TestHTTPForms(t *testing.T) {
	t.Parallel()
	for name, contentType := range map[string]string{
		"binary-json": events.JSON, "binary-protobuf": events.Protobuf,
		"structured-json": events.JSON, "structured-json-of-protobuf": events.Protobuf,
		"structured-protobuf": events.Protobuf, "structured-protobuf-of-json": events.JSON,
		"batch": events.JSON,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := sent(t, contentType)
			if golden.Updating() {
				checkFile(t, "http/"+name+".request", requestForm(t, name, want))
			}
			raw, err := os.ReadFile(filepath.Join("testdata/http", name+".request"))
			if err != nil {
				t.Fatal(err)
			}
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
			if err != nil {
				t.Fatal(err)
			}
			got, mode, err := events.FromRequest(r)
			if err != nil {
				t.Fatal(err)
			}
			if name == "batch" != mode.IsBatch() {
				t.Errorf("IsBatch is %v", mode.IsBatch())
			}
			var replies []event.Event
			for _, one := range got {
				checkEvent(t, one, want)
				replies = append(replies, replyTo(t, one))
			}
			recorder := httptest.NewRecorder()
			if err := events.WriteReplies(recorder, mode, replies); err != nil {
				t.Fatal(err)
			}
			dump, err := httputil.DumpResponse(recorder.Result(), true)
			if err != nil {
				t.Fatal(err)
			}
			checkFile(t, "http/"+name+".reply", dump)
			checkReply(t, recorder, name, replies[0])
		})
	}
}

// requestForm writes an event as a client sends it: the SDK, but for what it
// cannot do.
func requestForm(t *testing.T, name string, e event.Event) []byte {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	ctx := t.Context()
	switch {
	case name == "batch":
		body, err := json.Marshal([]event.Event{e, e})
		if err != nil {
			t.Fatal(err)
		}
		r = post(string(body), "application/cloudevents-batch+json; charset=utf-8")
	case strings.HasPrefix(name, "structured-protobuf"):
		body, err := format.Protobuf.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		r = post(string(body), "application/cloudevents+protobuf")
	default:
		if strings.HasPrefix(name, "structured") {
			ctx = binding.WithForceStructured(ctx)
		}
		if err := cehttp.WriteRequest(ctx, (*binding.EventMessage)(&e), r); err != nil {
			t.Fatal(err)
		}
		if r.Header.Get("Ce-Subject") != "" { // the SDK does not encode
			r.Header.Set("Ce-Subject", "100%25%20%22f%C3%BCr%22%20alle")
		}
	}
	dump, err := httputil.DumpRequest(r, true)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(dump), "Content-Length") {
		dump = bytes.Replace(dump, []byte("\r\n"), fmt.Appendf(nil, "\r\nContent-Length: %d\r\n", r.ContentLength), 1)
	}
	return dump
}

func checkEvent(t *testing.T, got, want event.Event) {
	t.Helper()
	if err := events.Validate(&got); err != nil {
		t.Error(err)
	}
	if got.Context.String() != want.Context.String() {
		t.Errorf("got %s\nwant %s", got.Context, want.Context)
	}
	var data pb.GetDeliberationStatusRequest
	if err := events.Decode(&got, &data); err != nil || data.GetDeliberationId() != "d-1" {
		t.Errorf("data %v %v", &data, err)
	}
}

func replyTo(t *testing.T, request event.Event) event.Event {
	t.Helper()
	reply, err := events.Reply(&request, &pb.CancelDeliberationResponse{DeliberationId: "d-1", Status: "cancelled"}, "d-1")
	if err != nil {
		t.Fatal(err)
	}
	reply.SetTime(time.Date(2026, 1, 2, 12, 0, 1, 0, time.UTC))
	return *reply
}

// checkReply reads a reply with the SDK, as a client does.
func checkReply(t *testing.T, recorder *httptest.ResponseRecorder, name string, want event.Event) {
	t.Helper()
	message := cehttp.NewMessageFromHttpResponse(recorder.Result())
	if name == "batch" {
		replies, err := binding.ToEvents(t.Context(), message, message.BodyReader)
		if err != nil || len(replies) != 2 || replies[1].ID() != want.ID() {
			t.Errorf("got %v, %v", replies, err)
		}
		return
	}
	got, err := binding.ToEvent(t.Context(), message)
	if err != nil {
		t.Fatal(err)
	}
	if got.Context.String() != want.Context.String() || !bytes.Equal(got.Data(), want.Data()) {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if name == "structured-protobuf" {
		var envelope cepb.CloudEvent
		if err := proto.Unmarshal(recorder.Body.Bytes(), &envelope); err != nil {
			t.Fatal(err)
		}
		unpacked, err := envelope.GetProtoData().UnmarshalNew()
		if err != nil || unpacked.(*pb.CancelDeliberationResponse).GetStatus() != "cancelled" {
			t.Errorf("a receiver cannot unpack the Any: %v %v", unpacked, err)
		}
	}
}

func envelope(t testing.TB, e *cepb.CloudEvent) string {
	t.Helper()
	data, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var binary = []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/s", "Ce-Type", "t"}

func TestFromRequestReads(t *testing.T) {
	t.Parallel()
	const head = `"specversion":"1.0","id":"1","source":"/s","type":"t"`
	ce := func(data any) *cepb.CloudEvent {
		e := &cepb.CloudEvent{Id: "1", Source: "/s", SpecVersion: "1.0", Type: "t"}
		switch data := data.(type) {
		case string:
			e.Data = &cepb.CloudEvent_TextData{TextData: data}
		case []byte:
			e.Data = &cepb.CloudEvent_BinaryData{BinaryData: data}
		}
		return e
	}
	encodedJSON := base64.StdEncoding.EncodeToString([]byte(`{"a":"?>?>"}`))
	for name, test := range map[string]struct {
		request           *http.Request
		contentType, data string
	}{
		"no type, no data":       {post("", "", binary...), "", ""},
		"no type":                {post("{}", "", binary...), "", "{}"},
		"with parameters":        {post("{}", "application/json; charset=utf-8", binary...), "application/json; charset=utf-8", "{}"},
		"structured, no data":    {post("{"+head+"}", "application/cloudevents+json"), "", ""},
		"structured, charset":    {post("{"+head+`,"data":{"a":1}}`, "Application/CloudEvents+JSON; charset=UTF-8"), "", `{"a":1}`},
		"structured, any order":  {post(`{"data":{"a":1},`+head+"}", "application/cloudevents+json"), "", `{"a":1}`},
		"structured, base64":     {post("{"+head+`,"data_base64":"e30="}`, "application/cloudevents+json"), "", "{}"},
		"structured, typed":      {post("{"+head+`,"datacontenttype":"application/json","data_base64":"`+encodedJSON+`"}`, "application/cloudevents+json"), "application/json", `{"a":"?>?>"}`},
		"structured, null":       {post("{"+head+`,"data":null}`, "application/cloudevents+json"), "", "null"},
		"protobuf, no data":      {post(envelope(t, ce(nil)), "application/cloudevents+protobuf"), "", ""},
		"protobuf, binary data":  {post(envelope(t, ce([]byte("{}"))), "application/cloudevents+protobuf"), "", "{}"},
		"protobuf, text is text": {post(envelope(t, ce(`{"a":1}`)), "application/cloudevents+protobuf"), "", `{"a":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _, err := events.FromRequest(test.request)
			if err != nil {
				t.Fatal(err)
			}
			if err := events.Validate(&got[0]); err != nil {
				t.Error(err)
			}
			if got[0].DataContentType() != test.contentType || string(got[0].Data()) != test.data {
				t.Errorf("got %q of %q", got[0].Data(), got[0].DataContentType())
			}
		})
	}
}

func TestFromRequestRefuses(t *testing.T) {
	t.Parallel()
	const structured = "application/cloudevents+json"
	for name, test := range map[string]struct {
		request     *http.Request
		field, says string
	}{
		"no event":                {post("{}", "application/json"), "request", "is not a CloudEvent: send the headers ce-specversion"},
		"nothing":                 {post("", ""), "request", "is not a CloudEvent"},
		"unknown form":            {post("", "application/cloudevents+avro"), "request", "application/cloudevents+protobuf"},
		"version 2":               {post("", "", "Ce-Specversion", "2.0", "Ce-Id", "1"), "request", "ce-specversion (1.0)"},
		"no id":                   {post("", "", "Ce-Specversion", "1.0", "Ce-Source", "/s", "Ce-Type", "t"), "id", "non-empty"},
		"no source":               {post("", "", "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Type", "t"), "source", "REQUIRED"},
		"no type":                 {post("", "", "Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/s"), "type", "non-empty"},
		"time that is none":       {post("", "", append([]string{"Ce-Time", "noon"}, binary...)...), "time", "noon"},
		"attribute's name":        {post("", "", append([]string{"Ce-A-B", "x"}, binary...)...), "request", "bad key"},
		"structured, empty":       {post("", structured), "request", "CloudEvents 1.0"},
		"structured, null":        {post("null", structured), "specversion", "no specversion"},
		"structured, a list":      {post("[]", structured), "specversion", "no specversion"},
		"structured, no version":  {post(`{"id":"1"}`, structured), "specversion", "no specversion"},
		"structured, version 2":   {post(`{"specversion":"2.0"}`, structured), "specversion", "unknown value: 2.0"},
		"structured, no id":       {post(`{"specversion":"1.0","source":"/s","type":"t"}`, structured), "id", "non-empty"},
		"structured, number":      {post(`{"data_base64":1,"specversion":"1.0"}`, structured), "request", "cannot be read"},
		"structured, not base64":  {post(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"?"}`, structured), "request", "base64"},
		"structured, object data": {post(`{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/protobuf","data":{}}`, structured), "request", "expected a string"},
		"protobuf, garbage":       {post("\xff", "application/cloudevents+protobuf"), "request", "cannot be read"},
		"protobuf, version":       {post(envelope(t, &cepb.CloudEvent{Id: "1", Source: "/s", Type: "t", SpecVersion: "9"}), "application/cloudevents+protobuf"), "specversion", "valid spec version"},
		"protobuf, attribute":     {post(envelope(t, &cepb.CloudEvent{SpecVersion: "1.0", Attributes: map[string]*cepb.CloudEventAttributeValue{"a": {}}}), "application/cloudevents+protobuf"), "request", "unsupported attribute"},
		"batch, no array":         {post("{}", "application/cloudevents-batch+json"), "request", "JSON array"},
		"batch, null":             {post("null", "application/cloudevents-batch+json"), "request", "JSON array"},
		"batch, cut short":        {post("[{}", "application/cloudevents-batch+json"), "request", "JSON array"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _, err := events.FromRequest(test.request)
			if err == nil {
				err = events.Validate(&got[0])
			}
			refused(t, err, deliberation.Invalid, test.field, test.says)
		})
	}
}

func TestFromRequestBoundsTheBody(t *testing.T) {
	t.Parallel()
	for _, contentType := range []string{"application/json", "application/cloudevents+json", "application/cloudevents+protobuf", "application/cloudevents-batch+json"} {
		r := post(strings.Repeat("[", 1001), contentType, binary...)
		r.Body = http.MaxBytesReader(httptest.NewRecorder(), r.Body, 1000)
		_, _, err := events.FromRequest(r)
		refused(t, err, deliberation.TooLarge, "request", "too large")
	}
}

// TestHeadersAreDecoded as CloudEvents' HTTP binding 3.1.3.2 has it; what is
// not encoded is taken literally.
func TestHeadersAreDecoded(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"plain": "plain", "Euro%20%E2%82%AC%20%F0%9F%98%80": "Euro € 😀", "100%25": "100%", "100%": "100%", "%zz": "%zz",
		"a+b": "a+b", "%FF": "%FF", "%e2%82%ac": "€", `"quoted \"x\" \\"`: `quoted "x" \`, `"`: `"`, "für": "für",
	} {
		got, _, err := events.FromRequest(post("", "", append([]string{"Ce-Subject", value, "Ce-X", value}, binary...)...))
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Subject() != want || got[0].Extensions()["x"] != want {
			t.Errorf("%q is read as %q and %q, want %q", value, got[0].Subject(), got[0].Extensions()["x"], want)
		}
	}
}

// TestHeadersAreEncoded: what is written comes back through any reader of the
// binding, and holds nothing that a header cannot.
func TestHeadersAreEncoded(t *testing.T) {
	t.Parallel()
	e := sent(t, events.JSON)
	e.SetExtension("comment", "a\r\nSet-Cookie: b € %41")
	recorder := httptest.NewRecorder()
	if err := events.WriteReplies(recorder, events.Mode{}, []event.Event{e}); err != nil {
		t.Fatal(err)
	}
	if got, want := recorder.Header().Get("Ce-Comment"), "a%0D%0ASet-Cookie:%20b%20%E2%82%AC%20%2541"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	r := post(recorder.Body.String(), "")
	r.Header = recorder.Header()
	back, _, err := events.FromRequest(r)
	if err != nil || back[0].Context.String() != e.Context.String() {
		t.Errorf("%v: got %s\nwant %s", err, back, e)
	}
}

func TestAHeaderWithoutANameIsPassedOver(t *testing.T) {
	t.Parallel()
	r := post("", "", binary...)
	r.Header["Ce-"] = []string{"the SDK panics here"}
	r.Header["Ce-Empty"] = nil
	if _, _, err := events.FromRequest(r); err != nil {
		t.Error(err)
	}
}

// TestBatchKeepsItsPlaces: an event that cannot be read has its place,
// with a reply id of its own, and the others are read.
func TestBatchKeepsItsPlaces(t *testing.T) {
	t.Parallel()
	const good = `{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/protobuf"}`
	bad := []string{
		`7`, `null`, `{}`, `{}`, `"text"`, `[1]`,
		`{"id":"2","source":"/s","type":"t"}`,
		`{"specversion":"1.0","id":"3","source":"/s"}`,
		`{"specversion":"1.0","id":4,"source":"/s","type":"t"}`,
		`{"specversion":"1.0","source":"/s","type":"t"}`,
		`{"specversion":"1.0","id":"5","source":"%zz","type":"t"}`,
		`{"data_base64":1,"specversion":"1.0","id":"6","source":"/s","type":"t"}`,
	}
	body := "[" + good + "," + strings.Join(bad, ",") + "," + good + "]"
	read := func() []event.Event {
		got, mode, err := events.FromRequest(post(body, "application/cloudevents-batch+json"))
		if err != nil || !mode.IsBatch() || len(got) != len(bad)+2 {
			t.Fatalf("got %d events, %v", len(got), err)
		}
		return got
	}
	got := read()
	ids := map[string]int{}
	for place, one := range got {
		reply := replyTo(t, one)
		if err := reply.Validate(); err != nil {
			t.Errorf("reply %d: %v", place, err)
		}
		if again := replyTo(t, read()[place]); again.ID() != reply.ID() {
			t.Errorf("reply %d has another id when the batch is sent again", place)
		}
		ids[reply.ID()]++
		err := events.Validate(&one)
		if place == 0 || place == len(got)-1 {
			if err != nil || one.ID() != "1" {
				t.Errorf("event %d: %v", place, err)
			}
			continue
		}
		coded := deliberation.AsError(err)
		if coded.Code != deliberation.Invalid || coded.Field == "" {
			t.Errorf("event %d, %s: %v", place, bad[place-1], err)
		}
	}
	if len(ids) != len(bad)+1 {
		t.Errorf("%d ids for %d different events: %v", len(ids), len(bad)+1, ids)
	}
	if got[7].ID() != "2" || got[7].Source() != "/s" {
		t.Errorf("what could be read of an event is lost: %s", got[7])
	}
}

func TestAnEmptyBatchIsAnswered(t *testing.T) {
	t.Parallel()
	got, mode, err := events.FromRequest(post("[]", "application/cloudevents-batch+json"))
	if err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	recorder := httptest.NewRecorder()
	if err := events.WriteReplies(recorder, mode, []event.Event{}); err != nil || recorder.Body.String() != "[]" {
		t.Errorf("got %s, %v", recorder.Body, err)
	}
}

func BenchmarkFromRequest(b *testing.B) {
	for _, contentType := range []string{events.JSON, events.Protobuf} {
		b.Run(contentType, func(b *testing.B) {
			e := sent(b, contentType)
			b.ReportAllocs()
			for b.Loop() {
				r := post(string(e.Data()), contentType, binary...)
				if _, _, err := events.FromRequest(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
