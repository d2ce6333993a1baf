package events_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// The corpora are in testdata/fuzz; `go test -fuzz FuzzX ./events` finds more.

// answerable: what is read gets an answer that can be read in turn, an
// answer of its own type or a coded refusal.
func answerable(t *testing.T, r *http.Request) {
	t.Helper()
	requests, mode, err := events.FromRequest(r)
	if err != nil {
		if code := deliberation.AsError(err).Code; code != deliberation.Invalid && code != deliberation.TooLarge {
			t.Fatalf("an unreadable request is %s: %v", code, err)
		}
		return
	}
	replies := []event.Event{}
	for _, request := range requests {
		if events.Validate(&request) != nil && !mode.IsBatch() {
			return
		}
		var into pb.ExecuteDeliberationRequest
		if err := events.Decode(&request, &into); err != nil && deliberation.AsError(err).Code == deliberation.Internal {
			t.Fatalf("unreadable data is internal: %v", err)
		}
		reply, err := events.Reply(&request, &pb.Error{Message: request.ID()}, "")
		if err != nil {
			// A message of a request that is no UTF-8 cannot be answered.
			reply, err = events.Reply(&request, &pb.Error{}, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, *reply)
	}
	recorder := httptest.NewRecorder()
	if err := events.WriteReplies(recorder, mode, replies); err != nil {
		t.Fatalf("the reply cannot be written: %v", err)
	}
	back := httptest.NewRequest(http.MethodPost, "/", recorder.Body)
	back.Header = recorder.Header()
	got, _, err := events.FromRequest(back)
	if err != nil || len(got) != len(replies) {
		t.Fatalf("the reply cannot be read: %v", err)
	}
	for i := range got {
		if err := events.Validate(&got[i]); err != nil || got[i].ID() != replies[i].ID() || !bytes.Equal(got[i].Data(), replies[i].Data()) {
			t.Fatalf("the reply comes back as %s, %v; it was %s", got[i], err, replies[i])
		}
	}
}

func FuzzBinary(f *testing.F) {
	f.Fuzz(func(t *testing.T, id, source, contentType, name, value string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header = http.Header{
			"Ce-Specversion": {"1.0"}, "Ce-Id": {id}, "Ce-Source": {source}, "Ce-Type": {"t"}, "Content-Type": {contentType},
			http.CanonicalHeaderKey("ce-" + name): {value},
		}
		answerable(t, r)
	})
}

func fuzzBody(f *testing.F, contentType string) {
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		answerable(t, r)
	})
}

func FuzzStructuredJSON(f *testing.F)     { fuzzBody(f, "application/cloudevents+json") }
func FuzzStructuredProtobuf(f *testing.F) { fuzzBody(f, "application/cloudevents+protobuf") }
func FuzzBatch(f *testing.F)              { fuzzBody(f, "application/cloudevents-batch+json") }

// fuzzData: what is read is written back the same.
func fuzzData(f *testing.F, contentType string) {
	f.Fuzz(func(t *testing.T, data []byte) {
		e := status(contentType, data)
		var into, back pb.ExecuteDeliberationRequest
		if events.Decode(&e, &into) != nil {
			return
		}
		reply, err := events.Reply(&e, &into, "")
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if len(reply.Data()) > deliberation.MaxRequestBytes {
			return
		}
		if err := events.Decode(reply, &back); err != nil || contentType == events.Protobuf && !proto.Equal(&into, &back) {
			t.Fatalf("%v: got %v, want %v", err, &back, &into)
		}
	})
}

func FuzzDecodeJSON(f *testing.F)     { fuzzData(f, events.JSON) }
func FuzzDecodeProtobuf(f *testing.F) { fuzzData(f, events.Protobuf) }

func FuzzLifecycle(f *testing.F) {
	f.Fuzz(func(t *testing.T, name, timeout string, data []byte) {
		header := map[string][]string{"ce-type": {name}, "ce-timeoutseconds": {timeout}}
		events.Timeout(header)
		events.Usage(map[string][]string{"ce-usage": {timeout}})
		message, err := events.Lifecycle(header, data)
		if err != nil {
			return
		}
		if events.Type(message) != name {
			t.Fatalf("%q is read as %s", name, events.Type(message))
		}
		if _, err := events.Encode(message, events.Source, ""); err == nil && len(data) > 0 {
			if _, err := proto.Marshal(message); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseSubject(f *testing.F) {
	f.Fuzz(func(t *testing.T, subject string) {
		kind, qualifier, id, ok := events.ParseSubject(subject)
		if ok && events.Subject(kind, qualifier, id) != subject {
			t.Fatalf("%q comes apart as %q, %q, %q", subject, kind, qualifier, id)
		}
	})
}
