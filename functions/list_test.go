package functions_test

import (
	"strings"
	"testing"

	"rayexecutor/deliberation"
	"rayexecutor/functions"
	pb "rayexecutor/proto/ray_executor/v1"
)

func TestList(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, id := range []string{"a", "b", "c", "d"} {
		request := request(id)
		if id == "c" {
			request.Pool, request.TaskId = "gpu", "t-2"
		}
		if _, err := f.Submit(t.Context(), request, functions.Origin{}); err != nil {
			t.Fatal(err)
		}
	}
	f.journal.start("b")
	all := func(query *pb.ListDeliberationsRequest) string {
		var ids []string
		for {
			page, err := f.List(t.Context(), query, functions.Origin{})
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range page.GetDeliberations() {
				ids = append(ids, one.GetDeliberationId())
			}
			if query.PageToken = page.GetNextPageToken(); query.GetPageToken() == "" {
				return strings.Join(ids, "")
			}
		}
	}
	for want, query := range map[string]*pb.ListDeliberationsRequest{
		"dcba": {}, "dca": {State: "queued"}, "b": {State: "running"}, "c": {State: "queued", Pool: "gpu"},
		"da": {State: "queued", TaskId: "t-1"}, "": {State: "running", TaskId: "t-2"},
	} {
		for _, size := range []int32{0, 1, 2} {
			if got := all(&pb.ListDeliberationsRequest{State: query.GetState(), Pool: query.GetPool(), TaskId: query.GetTaskId(), PageSize: size}); got != want {
				t.Errorf("%v by %d: got %s, want %s", query, size, got, want)
			}
		}
	}
	for _, token := range []string{"x", "0", "-1", "1.5"} {
		_, err := f.List(t.Context(), &pb.ListDeliberationsRequest{PageToken: token}, functions.Origin{})
		refused(t, err, deliberation.Invalid, "page_token")
	}
	_, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: "odd"}, functions.Origin{})
	refused(t, err, deliberation.Invalid, "state")
	f.journal.set(away)
	for _, state := range []string{"", "queued"} {
		_, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: state}, functions.Origin{})
		refused(t, err, deliberation.Unavailable, "NATS_URL")
	}
}

// TestListIsBounded: a page looks at 1,000 deliberations at most, and says
// where to go on.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.submit(t, "wanted")
	f.journal.mu.Lock()
	for range 1500 {
		f.journal.write(deliberation.NewID(), deliberation.KindRequested, "default", &pb.DeliberationRequested{TaskId: "other"})
	}
	f.journal.mu.Unlock()
	first, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: "queued", TaskId: "t-1"}, functions.Origin{})
	if err != nil || len(first.GetDeliberations()) != 0 || first.GetNextPageToken() != "502" {
		t.Fatalf("got %v, %v", first, err)
	}
	second, err := f.List(t.Context(), &pb.ListDeliberationsRequest{State: "queued", TaskId: "t-1", PageToken: first.GetNextPageToken()}, functions.Origin{})
	if err != nil || len(second.GetDeliberations()) != 1 {
		t.Fatalf("got %v, %v", second, err)
	}
}
