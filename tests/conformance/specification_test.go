package conformance_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	pb "rayexecutor/proto/ray_executor/v1"
)

// What the CloudEvents specification says, by its sections: HTTP is the HTTP
// protocol binding 1.0.2, JSON the JSON format, CE the core. The public
// conformance suite (cloudevents/conformance: its feature of the HTTP binding,
// its valid and invalid JSON events) has the same cases.

// attributes of an event; nil takes one away.
type attributes map[string]any

func asked(change attributes) attributes {
	event := attributes{
		"specversion": "1.0", "type": "ray_executor.v1.GetDeliberationStatusRequest", "id": "1234-1234-1234",
		"source": "/mycontext/subcontext", "datacontenttype": "application/json", "data": map[string]any{"deliberation_id": "nobody-knows"},
	}
	maps.Copy(event, change)
	maps.DeleteFunc(event, func(_ string, value any) bool { return value == nil })
	return event
}

type absent struct{}

func (absent) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// legal events, and what they say.
var legal = []struct {
	section string
	event   attributes
}{
	{"CE, required attributes", asked(nil)},
	{"CE, time with a positive offset", asked(attributes{"time": "2018-04-05T18:31:00+01:00"})},
	{"CE, time with a negative offset", asked(attributes{"time": "2018-04-05T16:31:00-01:00"})},
	{"CE, time to the nanosecond", asked(attributes{"time": "2018-04-05T17:31:00.123456789Z"})},
	{"CE, a source that is a relative reference", asked(attributes{"source": "#fragment"})},
	{"CE, a source that is a URN", asked(attributes{"source": "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"})},
	{"CE, optional attributes", asked(attributes{"dataschema": "https://example.com/schema", "subject": "tests", "time": "2018-04-05T17:31:00Z"})},
	{"CE 3.1, extensions of every type", asked(attributes{
		"extinteger": 10, "extboolean": true, "extstring": "text", "exturi": "https://cloudevents.io", "exturiref": "//authority/path",
		"exttimestamp": "2023-03-31T15:12:00Z", "extbinary": "TWE=",
	})},
	{"CE 3.1, long names of extensions", asked(attributes{"comexampleextension1withaverylongname": "value"})},
	{"JSON 2.3, null is absent", asked(attributes{"subject": absent{}, "time": absent{}, "dataschema": absent{}})},
	{"JSON 3.1, no datacontenttype is JSON", asked(attributes{"datacontenttype": nil})},
	{"JSON 3.1.1, data_base64", asked(attributes{"data": nil, "data_base64": base64.StdEncoding.EncodeToString([]byte(`{"deliberation_id": "nobody-knows"}`))})},
	{"JSON 3.1.1, data_base64 with protobuf", asked(attributes{
		"data": nil, "datacontenttype": "application/protobuf",
		"data_base64": base64.StdEncoding.EncodeToString([]byte("\x0a\x0cnobody-knows")),
	})},
	{"RFC 2046, parameters of the datacontenttype", asked(attributes{"datacontenttype": "application/json; charset=utf-8"})},
}

// illegal events, and the attribute at fault.
var illegal = []struct {
	section string
	field   string
	event   attributes
}{
	{"CE, no specversion", "specversion", asked(attributes{"specversion": nil})},
	{"CE, an empty specversion", "specversion", asked(attributes{"specversion": ""})},
	{"CE, an unknown specversion", "specversion", asked(attributes{"specversion": "0.9"})},
	{"CE, no id", "id", asked(attributes{"id": nil})},
	{"CE, an empty id", "id", asked(attributes{"id": ""})},
	{"CE, an id that is a number", "", asked(attributes{"id": 25})},
	{"CE, an id that is an object", "", asked(attributes{"id": map[string]any{"xyz": "abc"}})},
	{"CE, no type", "type", asked(attributes{"type": nil})},
	{"CE, an empty type", "type", asked(attributes{"type": ""})},
	{"CE, no source", "source", asked(attributes{"source": nil})},
	{"CE, an empty source", "source", asked(attributes{"source": ""})},
	{"RFC 2046, a datacontenttype that is none", "datacontenttype", asked(attributes{"datacontenttype": "xyz", "data": "text"})},
	{"RFC 3339, no time at all", "time", asked(attributes{"time": "lunchtime"})},
	{"RFC 3339, a time to the minute", "time", asked(attributes{"time": "2018-04-05T18:31Z"})},
	{"RFC 3339, an offset of X", "time", asked(attributes{"time": "2018-04-05T18:31:00X"})},
	{"RFC 3339, an offset out of range", "time", asked(attributes{"time": "2018-04-05T18:31:00+25:00"})},
	{"RFC 3339, an offset without minutes", "time", asked(attributes{"time": "2018-04-05T18:31:00+05"})},
	{"CE 3.1, a name with a dot", "", asked(attributes{"my.extension": "bad"})},
	{"JSON 3.1.1, data and data_base64", "", asked(attributes{"data_base64": "eyAieHl6IjogMTIzIH0="})},
	{"JSON 3.1.1, data_base64 that is none", "", asked(attributes{"data": nil, "data_base64": "%%%"})},
	{"our own: a type that nobody serves", "type", asked(attributes{"type": "io.cloudevents.test"})},
	{"our own: data that is neither JSON nor protobuf", "datacontenttype", asked(attributes{"datacontenttype": "text/xml", "data": "<a/>"})},
}

// lenient is what is taken though the specification says otherwise: nothing here
// hangs on these, the SDK of most senders lets them out, and what is refused
// ends in a dead-letter sink.
var lenient = []struct {
	section string
	event   attributes
}{
	{"CE, an empty subject", asked(attributes{"subject": ""})},
	{"CE, an empty dataschema", asked(attributes{"dataschema": ""})},
	{"CE, an empty datacontenttype", asked(attributes{"datacontenttype": ""})},
	{"CE 3.1, a name in capitals", asked(attributes{"MyExtension": "bad"})},
	{"CE 3.1, an extension that is a fraction", asked(attributes{"myextension": 1.5})},
}

func TestSpecification(t *testing.T) {
	h := setup(t)
	for _, one := range slices.Concat(legal, lenient) {
		for _, mode := range modesOf(one.event) {
			t.Run(one.section+"/"+mode, func(t *testing.T) {
				a, reply := post(t, h.URL(), mode, one.event)
				if a.status != http.StatusOK || reply.attributes["type"] != typeOf(&pb.GetDeliberationStatusResponse{}) || len(reply.data) == 0 {
					t.Errorf("answered %d: %v, %s", a.status, reply, a.body)
				}
			})
		}
	}
	for _, one := range illegal {
		for _, mode := range modesOf(one.event) {
			t.Run(one.section+"/"+mode, func(t *testing.T) {
				a, reply := post(t, h.URL(), mode, one.event)
				field := one.field
				if mode == "binary" && field == "specversion" {
					field = "" // without a specversion that is known it is no event in binary mode
				}
				refusedAs(t, a, reply, field)
			})
		}
	}
	t.Run("HTTP 3.1.3.2, percent-encoded attributes", func(t *testing.T) { percentEncoded(t, h) })
}

// modesOf are the ways that an event can go: binary mode has nothing but text.
func modesOf(event attributes) []string {
	for name, value := range event {
		if _, text := value.(string); !text && name != "data" || name == "data_base64" {
			return []string{"structured", "batched"}
		}
	}
	return []string{"binary", "structured", "batched"}
}

func post(t *testing.T, url, mode string, event attributes) (*answer, *received) {
	t.Helper()
	header, body, unwrap := http.Header{}, any(event), structuredJSON.unwrap
	switch mode {
	case "binary":
		header, body, unwrap = headers(event), event["data"], binaryMode.unwrap
	case "batched":
		header.Set("Content-Type", "application/cloudevents-batch+json")
		body, unwrap = []attributes{event}, batched.unwrap
	default:
		header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	}
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	a, err := send(t.Context(), http1, http.MethodPost, url, header, data)
	if err != nil {
		t.Fatal(err)
	}
	if a.status != http.StatusOK {
		return a, nil
	}
	reply, err := unwrap(a)
	if err != nil {
		t.Fatal(err)
	}
	return a, reply
}

func headers(event attributes) http.Header {
	header := make(http.Header)
	for name, value := range event {
		switch name {
		case "data":
		case "datacontenttype":
			header.Set("Content-Type", value.(string))
		default:
			header["ce-"+name] = []string{value.(string)}
		}
	}
	return header
}

// refusedAs expects a refusal: a 400, or its like within a batch.
func refusedAs(t *testing.T, a *answer, reply *received, field string) {
	t.Helper()
	refusal := new(pb.Error)
	if reply == nil {
		o, err := a.refused()
		if err != nil {
			t.Fatal(err)
		}
		refusal.Code, refusal.Field, refusal.Message = o.code, o.field, o.detail
	} else if err := inJSON.unmarshal(reply.data, refusal); err != nil {
		t.Fatalf("answered %d: %s", a.status, a.body)
	}
	if refusal.GetCode() != invalid || field != "" && refusal.GetField() != field || refusal.GetMessage() == "" {
		t.Errorf("refused with %v, not at %q", refusal, field)
	}
}

// percentEncoded sends one event in several spellings: what is the same event
// is the same deliberation.
func percentEncoded(t *testing.T, h *house) {
	data, err := inJSON.marshal(request(""))
	if err != nil {
		t.Fatal(err)
	}
	const id, source = "Euro € 😀 100% \"so\"", "/a b"
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": id, "source": source, "type": typeOf(request("")), "data": json.RawMessage(data),
	})
	if err != nil {
		t.Fatal(err)
	}
	subjects := make(map[string]string)
	for name, sent := range map[string]struct {
		header http.Header
		body   []byte
	}{
		"structured":        {http.Header{"Content-Type": {"application/cloudevents+json"}}, body},
		"encoded":           {spelled("Euro%20%E2%82%AC%20%F0%9F%98%80%20100%25%20%22so%22", "/a%20b"), data},
		"lower case":        {spelled("Euro%20%e2%82%ac%20%f0%9f%98%80%20100%25%20%22so%22", "/a%20b"), data},
		"more than need be": {spelled("%45uro%20%E2%82%AC%20%F0%9F%98%80%20100%25%20%22so%22", "%2Fa%20b"), data},
		"raw spaces":        {spelled("Euro %E2%82%AC %F0%9F%98%80 100%25 %22so%22", "/a b"), data},
		"quoted":            {spelled(`"Euro %E2%82%AC %F0%9F%98%80 100%25 \"so\""`, `"/a b"`), data},
	} {
		a, err := send(t.Context(), http1, http.MethodPost, h.URL(), sent.header, sent.body)
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %v, %+v", name, err, a)
		}
		unwrap := binaryMode.unwrap
		if name == "structured" {
			unwrap = structuredJSON.unwrap
		}
		reply, err := unwrap(a)
		if err != nil {
			t.Fatal(err)
		}
		subjects[reply.attributes["subject"]] += " " + name
	}
	if len(subjects) != 1 {
		t.Errorf("one event is %v", fmt.Sprint(subjects))
	}
}

func spelled(id, source string) http.Header {
	return http.Header{
		"Content-Type": {"application/json"}, "ce-specversion": {"1.0"}, "CE-Id": {id}, "cE-sOURCE": {source},
		"ce-type": {strings.TrimSpace(typeOf(request("")))},
	}
}
