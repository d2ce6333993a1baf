//go:build !race

package functions_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	pb "rayexecutor/proto/ray_executor/v1"
)

// TestAllocations: what a call allocates has not grown. The journal behind it
// discards, so the counts are the functions' own: event, validation, reply.
//
// They are the same on every machine, but for what a collection takes out of
// pools in between: hence one in fifty more is let pass. Who makes them fewer
// writes the new count down, and who makes them more says in the commit why it
// is worth it. (The race detector allocates too: without it only.)
func TestAllocations(t *testing.T) {
	f := discarding(t)
	for _, one := range []struct {
		name        string
		request     proto.Message
		contentType string
		most        float64
	}{
		{"submit, JSON", request("d"), events.JSON, 88},
		{"submit, protobuf", request("d"), events.Protobuf, 54},
		{"status, JSON", &pb.GetDeliberationStatusRequest{DeliberationId: "d"}, events.JSON, 62},
		{"status, protobuf", &pb.GetDeliberationStatusRequest{DeliberationId: "d"}, events.Protobuf, 40},
	} {
		t.Run(one.name, func(t *testing.T) {
			e := asEventIn(t, one.contentType, one.request)
			got := testing.AllocsPerRun(2000, func() {
				if _, err := f.Handle(t.Context(), e); err != nil {
					t.Fatal(err)
				}
			})
			if got > one.most*1.02 {
				t.Errorf("%.0f allocations a call, no longer %.0f", got, one.most)
			}
		})
	}
}
