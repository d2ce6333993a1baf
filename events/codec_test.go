package events_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func status(contentType string, data []byte) event.Event {
	e := event.New()
	e.SetID("1")
	e.SetSource("/test")
	e.SetType("ray_executor.v1.GetDeliberationStatusRequest")
	if contentType != "" {
		e.SetDataContentType(contentType)
	}
	e.DataEncoded = data
	return e
}

// refused holds an error against a code and a field.
func refused(t *testing.T, err error, code deliberation.Code, field, says string) {
	t.Helper()
	coded, ok := errors.AsType[*deliberation.Error](err)
	if !ok || coded.Code != code || coded.Field != field || !strings.Contains(coded.Message, says) {
		t.Errorf("got %v (%+v), want %s at %q: …%s…", err, coded, code, field, says)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	wire, err := proto.Marshal(&pb.GetDeliberationStatusRequest{DeliberationId: "d"})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		contentType, data string
		want              string // the id; "-" for a refusal
		field, says       string
	}{
		"protobuf":               {events.Protobuf, string(wire), "d", "", ""},
		"snake_case":             {events.JSON, `{"deliberation_id": "d"}`, "d", "", ""},
		"lowerCamelCase":         {events.JSON, `{"deliberationId": "d"}`, "d", "", ""},
		"no type is JSON":        {"", `{"deliberation_id": "d"}`, "d", "", ""},
		"charset":                {"application/json; charset=utf-8", `{"deliberation_id": "d"}`, "d", "", ""},
		"capitals":               {"Application/Protobuf", string(wire), "d", "", ""},
		"empty":                  {events.Protobuf, "", "", "", ""},
		"empty, no type":         {"", "", "", "", ""},
		"JSON's null":            {events.JSON, "null", "", "", ""},
		"unknown field":          {events.JSON, `{"deliberation": "d"}`, "-", "data", `unknown field "deliberation"`},
		"wrong type of a field":  {events.JSON, `{"deliberation_id": 1}`, "-", "data", "invalid value for string field"},
		"a list":                 {events.JSON, `[]`, "-", "data", "is not a ray_executor.v1.GetDeliberationStatusRequest in JSON"},
		"cut short":              {events.JSON, `{"deliberation_id": "d"`, "-", "data", "in JSON"},
		"JSON as protobuf":       {events.Protobuf, `{"deliberation_id": "d"}`, "-", "data", "is not a ray_executor.v1.GetDeliberationStatusRequest in protobuf"},
		"not UTF-8":              {events.Protobuf, "\x0a\x01\xff", "-", "data", "in protobuf"},
		"another type":           {"text/plain", "d", "-", "datacontenttype", `"text/plain" is not read: send application/protobuf or application/json`},
		"another type, no data":  {"application/xml", "", "-", "datacontenttype", "application/xml"},
		"no media type":          {";;", "d", "-", "datacontenttype", ";;"},
		"curl's":                 {"application/x-www-form-urlencoded", "{}", "-", "datacontenttype", "x-www-form-urlencoded"},
		"unknown protobuf field": {events.Protobuf, string(wire) + "\x98\x06\x01", "d", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := status(test.contentType, []byte(test.data))
			var into pb.GetDeliberationStatusRequest
			err := events.Decode(&e, &into)
			if test.want == "-" {
				refused(t, err, deliberation.Invalid, test.field, test.says)
				return
			}
			if err != nil || into.GetDeliberationId() != test.want {
				t.Errorf("got %q, %v; want %q", into.GetDeliberationId(), err, test.want)
			}
		})
	}
}

func TestDecodeBoundsTheSize(t *testing.T) {
	t.Parallel()
	const most = deliberation.MaxRequestBytes - 4 // for the field's number and length
	for size, fits := range map[int]bool{most: true, most + 1: false} {
		text := strings.Repeat("\n", size)
		sent := &pb.GetDeliberationStatusRequest{DeliberationId: text}
		inProtobuf, err := proto.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		inJSON, err := protojson.Marshal(sent) // larger, as it escapes
		if err != nil {
			t.Fatal(err)
		}
		for contentType, data := range map[string][]byte{events.Protobuf: inProtobuf, events.JSON: inJSON} {
			e := status(contentType, data)
			var read pb.GetDeliberationStatusRequest
			err := events.Decode(&e, &read)
			if fits && (err != nil || read.GetDeliberationId() != text) {
				t.Errorf("%d bytes of %s: %v", len(data), contentType, err)
			}
			if !fits {
				refused(t, err, deliberation.TooLarge, "data", "above 1 MiB")
			}
		}
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	answer := &pb.GetDeliberationStatusResponse{DeliberationId: "d", Status: "queued"}
	reply := func(change func(*event.Event)) *event.Event {
		request := status("application/json; charset=utf-8", []byte(`{}`))
		change(&request)
		reply, err := events.Reply(&request, answer, "d")
		if err != nil {
			t.Fatal(err)
		}
		if err := reply.Validate(); err != nil {
			t.Errorf("a reply that is no event: %v", err)
		}
		return reply
	}
	first := reply(func(e *event.Event) { e.SetExtension("traceparent", trace) })
	if first.Type() != "ray_executor.v1.GetDeliberationStatusResponse" || first.Source() != events.Source ||
		first.Subject() != "d" || first.Extensions()["traceparent"] != trace || first.DataContentType() != events.JSON {
		t.Errorf("got %s", first)
	}
	if !strings.Contains(string(first.Data()), `"submitted_at":null`) && !strings.Contains(string(first.Data()), `"deliberation_id":"d"`) {
		t.Errorf("names are written in snake_case: %s", first.Data())
	}
	if time.Since(first.Time()) > time.Minute {
		t.Errorf("time %v", first.Time())
	}

	if again := reply(func(e *event.Event) { e.DataEncoded = []byte(`{"deliberation_id": "other"}`) }); again.ID() != first.ID() {
		t.Error("the same request, sent again, has another reply id")
	}
	for name, change := range map[string]func(*event.Event){
		"id": func(e *event.Event) { e.SetID("2") }, "source": func(e *event.Event) { e.SetSource("/other") },
	} {
		if other := reply(change); other.ID() == first.ID() {
			t.Errorf("another %s has the same reply id", name)
		}
	}
	binary := reply(func(e *event.Event) { e.SetDataContentType("application/protobuf; messageType=x") })
	var back pb.GetDeliberationStatusResponse
	if binary.DataContentType() != events.Protobuf || proto.Unmarshal(binary.Data(), &back) != nil || !proto.Equal(&back, answer) {
		t.Errorf("got %s", binary)
	}
	if text := reply(func(e *event.Event) { e.SetDataContentType("text/plain") }); text.DataContentType() != events.JSON {
		t.Errorf("a refusal of a content type is in %s", text.DataContentType())
	}
	request := status(events.JSON, nil)
	nowhere, err := events.Reply(&request, &pb.GetStatusResponse{}, "")
	if err != nil || nowhere.Subject() != "" || nowhere.Validate() != nil {
		t.Errorf("a reply about no deliberation: %v %v", nowhere, err)
	}
}

func TestTraceIsPassedOnOnlyIfItIsOne(t *testing.T) {
	t.Parallel()
	for value, want := range map[any]string{
		trace: trace, "": "", "00-a\r\nNats-Expected-Last-Sequence: 0": "", "a b": "", "ä": "", strings.Repeat("0", 129): "", int32(1): "",
	} {
		e := status(events.JSON, nil)
		e.SetExtension("traceparent", value)
		if got := events.TraceOf(&e); got != want {
			t.Errorf("%q is answered as %q", value, got)
		}
	}
	message, err := events.Encode(&pb.DeliberationCancelled{DeliberationId: "d"}, events.Source, "x\r\ny: z")
	if err != nil || events.Trace(message.Header) != "" {
		t.Errorf("%v %v", message.Header, err)
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{
		events.Subject(deliberation.KindRequested, "gpu", "d"):       "deliberation.requested.gpu.d",
		events.Subject(deliberation.KindStarted, "gpu", "d"):         "deliberation.started.gpu.d",
		events.AgentSubject(255, "d"):                                "deliberation.agent.255.d",
		events.Subject(deliberation.KindDone, "failed", "d"):         "deliberation.done.failed.d",
		events.HistorySubject("d"):                                   "deliberation.*.*.d",
		events.EndSubject("d"):                                       "deliberation.done.*.d",
		events.PoolSubject("gpu"):                                    "deliberation.requested.gpu.*",
		events.AnnouncementSubject(deliberation.Cancelled):           "orchestration.deliberation.cancelled",
		events.DoneEventID("d"):                                      "d.done",
		events.JournalSubjects + " " + events.DoneSubjects:           "deliberation.*.*.* deliberation.done.*.*",
		events.RequestedSubjects + " " + events.AnnouncementSubjects: "deliberation.requested.*.* orchestration.deliberation.*",
	} {
		if subject != want {
			t.Errorf("got %s, want %s", subject, want)
		}
	}
	for _, other := range []string{"", "deliberation", "deliberation.requested.gpu", "deliberation.requested.gpu.d.e", "deliberation.other.gpu.d", "x.requested.gpu.d", "deliberation.requested..d", "deliberation.done.failed."} {
		if _, _, _, ok := events.ParseSubject(other); ok {
			t.Errorf("%q is no subject of the journal", other)
		}
	}
}

func TestTimeoutFromTheHeader(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{"7": 7 * time.Second, "86400": 24 * time.Hour, "": 300 * time.Second, "x": 300 * time.Second} {
		if got := events.Timeout(map[string][]string{"ce-timeoutseconds": {value}}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	if got := events.Timeout(nil); got != 300*time.Second {
		t.Errorf("no header: %v", got)
	}
}

func TestTenantInTheHeader(t *testing.T) {
	t.Parallel()
	for _, tenant := range []string{"", "payments"} {
		message, err := events.Encode(&pb.DeliberationRequested{DeliberationId: "d", Pool: "default", Tenant: tenant}, events.Source, "")
		_, has := message.Header["ce-tenant"]
		if got := events.Tenant(message.Header); err != nil || got != tenant || has != (tenant != "") {
			t.Errorf("%q: %q, %v, %v", tenant, got, message.Header, err)
		}
	}
}

func TestUsageInTheHeader(t *testing.T) {
	t.Parallel()
	usage := &pb.Usage{PromptTokens: 7, CompletionTokens: 5, CachedTokens: 2, ReasoningTokens: 1, Requests: 3}
	message, err := events.Encode(&pb.DeliberationFailed{DeliberationId: "d", Usage: usage}, events.Source, "")
	if got := events.Usage(message.Header); err != nil || !proto.Equal(got, usage) {
		t.Errorf("got %v, %v", got, err)
	}
	message, err = events.Encode(&pb.DeliberationFailed{DeliberationId: "d"}, events.Source, "")
	if _, set := message.Header["ce-usage"]; err != nil || set {
		t.Errorf("an end without usage has a header: %v, %v", message.Header, err)
	}
	for _, value := range []string{"", "1,2,3,4", "1,2,3,4,5,6", "1,2,3,4,x", "1,2,3,4,-5", "1,2,3,4,9223372036854775808", "1, 2,3,4,5"} {
		if got := events.Usage(map[string][]string{"ce-usage": {value}}); got != nil {
			t.Errorf("%q: %v", value, got)
		}
	}
}

func TestUsageByModelInTheHeader(t *testing.T) {
	t.Parallel()
	end := &pb.DeliberationCompleted{DeliberationId: "d"}
	names := []string{"a b/c=d&é\r\n", strings.Repeat("x", 129), ""}
	for i := range 20 {
		names = append(names, fmt.Sprint("m", i))
	}
	for _, name := range append(names, names...) {
		end.Results = append(end.Results, &pb.DeliberationResult{
			Metadata: map[string]string{"model": name}, Usage: &pb.Usage{PromptTokens: 2, Requests: 1},
		})
	}
	end.Usage = deliberation.UsageOf(end.GetResults())
	message, err := events.Encode(end, events.Source, "")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, model := range events.ModelUsage(message.Header) {
		got[model.GetModel()] = fmt.Sprint(model.GetUsage().GetPromptTokens(), model.GetUsage().GetRequests())
	}
	want := map[string]string{"a b/c=d&é\r\n": "4 2", deliberation.OtherLabel: "28 14"}
	for i := range 15 {
		want[fmt.Sprint("m", i)] = "4 2"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for value, want := range map[string]string{
		"": "_other:1,2,3,4,5", "m": "_other:1,2,3,4,5", "m=1,2": "_other:1,2,3,4,5", "%zz=1,2,3,4,5": "_other:1,2,3,4,5",
		"m=1,2,3,4,5": "m:1,2,3,4,5", "m=9,9,9,9,9": "m:9,9,9,9,9",
	} {
		var got []string
		for _, m := range events.ModelUsage(map[string][]string{"ce-usage": {"1,2,3,4,5"}, "ce-modelusage": {value}}) {
			u := m.GetUsage()
			got = append(got, fmt.Sprintf("%s:%d,%d,%d,%d,%d", m.GetModel(), u.GetPromptTokens(), u.GetCompletionTokens(), u.GetCachedTokens(), u.GetReasoningTokens(), u.GetRequests()))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, want %s", value, got, want)
		}
	}
	if got := events.ModelUsage(map[string][]string{"ce-modelusage": {"m=1,2,3,4,5"}}); got != nil {
		t.Errorf("an end without usage has %v", got)
	}
}

func TestTraceID(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		trace: "4bf92f3577b34da6a3ce929d0e0e4736", "": "", "x": "", "a-b": "b", "00-\n-x": "", "00-" + strings.Repeat("a", 200): "",
	} {
		if got := events.TraceID(given); got != want {
			t.Errorf("%q: got %q, want %q", given, got, want)
		}
	}
}

func TestLifecycleRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]map[string][]string{
		"none": nil, "unknown": {"ce-type": {"ray_executor.v1.Nothing"}},
	} {
		if _, err := events.Lifecycle(header, nil); err == nil {
			t.Errorf("%s type is read", name)
		}
	}
	if _, err := events.Lifecycle(map[string][]string{"ce-type": {"ray_executor.v1.AgentCompleted"}}, []byte("\xff")); err == nil {
		t.Error("bytes that are no message are read")
	}
}

func ExampleUnmarshalJSON() {
	var request pb.GetDeliberationStatusRequest
	fmt.Println(events.UnmarshalJSON([]byte(`{"deliberationId": "d-1"}`), &request), request.GetDeliberationId())
	fmt.Println(events.UnmarshalJSON([]byte(`{"deliberation": "d-1"}`), &request))
	// Output:
	// <nil> d-1
	// data: is not a ray_executor.v1.GetDeliberationStatusRequest in JSON: (line 1:2): unknown field "deliberation"
}

func BenchmarkReply(b *testing.B) {
	for _, contentType := range []string{events.JSON, events.Protobuf} {
		b.Run(contentType, func(b *testing.B) {
			request := status(contentType, nil)
			answer := &pb.GetDeliberationStatusResponse{DeliberationId: "d", Status: "queued"}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := events.Reply(&request, answer, "d"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
