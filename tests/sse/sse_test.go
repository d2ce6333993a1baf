package sse_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rayexecutor/tests/sse"
)

func TestRead(t *testing.T) {
	t.Parallel()
	const stream = ": hello\n\nid: 1\nevent: Started\ndata: {\"a\":\ndata: 1}\n\n\n:\n\ndata:x\n\ndata: unfinished"
	var got []sse.Event
	for event, err := range sse.Read(strings.NewReader(stream)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, event)
	}
	want := []sse.Event{{Comment: "hello"}, {ID: "1", Name: "Started", Data: `{"a":1}`}, {Data: "x"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
