package conformance_test

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// freshRows come first, before anything is submitted.
func freshRows() []row {
	return []row{{name: "nothing is counted, nothing is listed", run: func(t *testing.T, _ *house, f door) {
		same(t, "the statistics", statistics(t, f), &pb.RayExecutorStats{})
		same(t, "the jobs", ask(t, f, &pb.GetActiveJobsRequest{}, ok).reply, &pb.GetActiveJobsResponse{})
		same(t, "the list", ask(t, f, &pb.ListDeliberationsRequest{}, ok).reply, &pb.ListDeliberationsResponse{})
	}}}
}

func lifeRows() []row {
	return []row{
		{name: "status: queued", run: func(t *testing.T, _ *house, f door) {
			id := submit(t, f, request(fresh(t)))
			got := status(t, f, id)
			if got.GetSubmittedAt().AsTime().After(time.Now()) || time.Since(got.GetSubmittedAt().AsTime()) > time.Minute {
				t.Errorf("submitted at %v", got.GetSubmittedAt().AsTime())
			}
			same(t, "the status", got, &pb.GetDeliberationStatusResponse{
				Status: "queued", DeliberationId: id, SubmittedAt: got.GetSubmittedAt(), Pool: "default", TaskId: "task-" + id,
			})
		}},
		{name: "status: running", run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			started(t, h, id)
			got := status(t, f, id)
			if got.GetStatus() != "running" || got.GetAttempts() != 1 || got.GetCluster() != h.worker.Cluster || got.GetStartedAt() == nil {
				t.Errorf("the status is %v", got)
			}
		}},
		{name: "status: completed, with every agent's result in order", run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			started(t, h, id)
			results := []*pb.DeliberationResult{journaltest.Result(0, ""), journaltest.Result(1, "Do it. 実行")}
			won(t)(h.worker.Completed(t.Context(), id, results...))
			got := status(t, f, id)
			same(t, "the status", got, &pb.GetDeliberationStatusResponse{
				Status: "completed", Result: results[1], Results: results, DeliberationId: id, Attempts: 1,
				SubmittedAt: got.GetSubmittedAt(), StartedAt: got.GetStartedAt(), EndedAt: got.GetEndedAt(),
				Cluster: h.worker.Cluster, Pool: "default", TaskId: "task-" + id,
			})
			if got.GetEndedAt() == nil {
				t.Error("it has no end")
			}
		}},
		{name: "status: failed, and why", run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			failed(t, h, id)
			if got := status(t, f, id); got.GetStatus() != "failed" || got.GetErrorMessage() != "no agent answered" || got.GetResult() != nil {
				t.Errorf("the status is %v", got)
			}
		}},
		{name: "status: unknown", run: func(t *testing.T, _ *house, f door) {
			o := ask(t, f, &pb.GetDeliberationStatusRequest{DeliberationId: "nobody-knows"}, notFound)
			if got, has := o.reply.(*pb.GetDeliberationStatusResponse); has && got.GetDeliberationId() != "nobody-knows" {
				t.Errorf("the status is %v", got)
			}
		}},
		{name: "cancel: queued", run: func(t *testing.T, _ *house, f door) {
			id := submit(t, f, request(fresh(t)))
			if got := cancel(t, f, id); got.GetStatus() != "cancelled" || got.GetDeliberationId() != id {
				t.Errorf("cancel answers %v", got)
			}
			if got := status(t, f, id); got.GetStatus() != "cancelled" || got.GetErrorMessage() != "not needed" || got.GetEndedAt() == nil {
				t.Errorf("the status is %v", got)
			}
		}},
		{name: "cancel: running", run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			started(t, h, id)
			won(t)(h.worker.Agent(t.Context(), id, 1, "half of it"))
			cancel(t, f, id)
			if got := status(t, f, id); got.GetStatus() != "cancelled" || len(got.GetResults()) != 1 {
				t.Errorf("the status is %v", got)
			}
		}},
		{name: "cancel: twice", run: func(t *testing.T, _ *house, f door) {
			id := submit(t, f, request(fresh(t)))
			first, second := cancel(t, f, id), cancel(t, f, id)
			same(t, "the second answer", second, first)
		}},
		{name: "cancel: too late", run: func(t *testing.T, h *house, f door) {
			id := submit(t, f, request(fresh(t)))
			won(t)(h.worker.Completed(t.Context(), id, journaltest.Result(0, "done")))
			if got := cancel(t, f, id); got.GetStatus() != "completed" {
				t.Errorf("cancel answers %v", got)
			}
		}},
		{name: "cancel: unknown", run: func(t *testing.T, _ *house, f door) {
			ask(t, f, &pb.CancelDeliberationRequest{DeliberationId: "nobody-knows"}, notFound)
		}},
		{name: "jobs: what is queued and running, and no more", run: jobs},
		{name: "statistics: they count each state", run: countsEachState},
		{name: "health: degraded, with the reason", run: func(t *testing.T, _ *house, f door) {
			got := ask(t, f, &pb.GetStatusRequest{}, ok).reply.(*pb.GetStatusResponse)
			if got.GetStatus() != "degraded" || len(got.GetReasons()) != 1 || len(got.GetClusters()) != 1 || got.GetClusters()[0].GetReachable() {
				t.Errorf("without a Ray, health is %v", got)
			}
		}},
	}
}

func jobs(t *testing.T, h *house, f door) {
	queued, running, ended := submit(t, f, request(fresh(t))), submit(t, f, request(fresh(t))), submit(t, f, request(fresh(t)))
	started(t, h, running)
	cancel(t, f, ended)
	found := make(map[string]*pb.JobInfo)
	for _, job := range ask(t, f, &pb.GetActiveJobsRequest{}, ok).reply.(*pb.GetActiveJobsResponse).GetJobs() {
		found[job.GetJobId()] = job
	}
	if found[ended] != nil || found[queued] == nil || found[running] == nil {
		t.Fatalf("the jobs are %v", found)
	}
	for id, want := range map[string]string{queued: "queued", running: "running"} {
		job := found[id]
		if job.GetRuntime() == "" || job.GetStartTime() == nil {
			t.Errorf("%s has no time: %v", id, job)
		}
		same(t, "the job", job, &pb.JobInfo{
			JobId: id, Name: "deliberation-" + id, Status: want, SubmissionId: id, Role: "DEV", TaskId: "task-" + id,
			StartTime: job.GetStartTime(), Runtime: job.GetRuntime(),
		})
	}
}

func countsEachState(t *testing.T, h *house, f door) {
	before := statistics(t, f)
	for _, end := range []string{"queued", "running", "completed", "failed", "cancelled"} {
		id := submit(t, f, request(fresh(t)))
		switch end {
		case "running":
			started(t, h, id)
		case "completed":
			started(t, h, id)
			won(t)(h.worker.Completed(t.Context(), id, journaltest.Result(0, "done")))
		case "failed":
			failed(t, h, id)
		case "cancelled":
			cancel(t, f, id)
		}
	}
	after := statistics(t, f)
	want := proto.CloneOf(before)
	want.TotalDeliberations += 5
	want.ActiveDeliberations += 2
	want.QueuedDeliberations++
	want.CompletedDeliberations++
	want.FailedDeliberations++
	want.CancelledDeliberations++
	want.AverageExecutionTimeMs = after.GetAverageExecutionTimeMs()
	same(t, "the statistics", after, want)
}

func listRows() []row {
	return []row{
		{name: "all pages, each deliberation once, newest first", run: func(t *testing.T, _ *house, f door) {
			task := "list-" + fresh(t)
			var want []string
			for range 5 {
				want = append(want, submit(t, f, ofTask(fresh(t), task)))
			}
			slices.Reverse(want)
			if got := pages(t, f, &pb.ListDeliberationsRequest{TaskId: task, PageSize: 2}); !slices.Equal(got, want) {
				t.Errorf("listed are %v, not %v", got, want)
			}
		}},
		{name: "by state and by pool", run: filters},
		{name: "summary", run: func(t *testing.T, _ *house, f door) {
			id := submit(t, f, ofTask(fresh(t), "summary-"+fresh(t)))
			cancel(t, f, id)
			request := &pb.ListDeliberationsRequest{State: "cancelled", PageSize: 1}
			page := ask(t, f, request, ok).reply.(*pb.ListDeliberationsResponse)
			if len(page.GetDeliberations()) != 1 {
				t.Fatalf("the page is %v", page)
			}
			got := page.GetDeliberations()[0]
			same(t, "the summary", got, &pb.DeliberationSummary{
				DeliberationId: id, TaskId: got.GetTaskId(), Role: "DEV", Pool: "default", Status: "cancelled", Agents: 2,
				SubmittedAt: got.GetSubmittedAt(), EndedAt: got.GetEndedAt(), ErrorMessage: "not needed",
			})
		}},
		{name: "by labels: all of them, of any state", run: labels},
		{name: "nothing found", run: func(t *testing.T, _ *house, f door) {
			if got := pages(t, f, &pb.ListDeliberationsRequest{TaskId: "no such task"}); len(got) != 0 {
				t.Errorf("listed are %v", got)
			}
		}},
	}
}

func filters(t *testing.T, h *house, f door) {
	task := "filters-" + fresh(t)
	queued, running := submit(t, f, ofTask(fresh(t), task)), submit(t, f, ofTask(fresh(t), task))
	cancelled := submit(t, f, ofTask(fresh(t), task))
	elsewhere := ofTask(fresh(t), task)
	elsewhere.Pool = otherPool
	submit(t, f, elsewhere)
	started(t, h, running)
	cancel(t, f, cancelled)
	for _, one := range []struct {
		query *pb.ListDeliberationsRequest
		want  []string
	}{
		{&pb.ListDeliberationsRequest{State: "queued"}, []string{elsewhere.GetDeliberationId(), queued}},
		{&pb.ListDeliberationsRequest{State: "running"}, []string{running}},
		{&pb.ListDeliberationsRequest{State: "cancelled"}, []string{cancelled}},
		{&pb.ListDeliberationsRequest{State: "completed"}, nil},
		{&pb.ListDeliberationsRequest{Pool: otherPool}, []string{elsewhere.GetDeliberationId()}},
		{&pb.ListDeliberationsRequest{Pool: "default", State: "queued"}, []string{queued}},
	} {
		one.query.TaskId = task
		if got := pages(t, f, one.query); !slices.Equal(got, one.want) {
			t.Errorf("listed for %v are %v, not %v", one.query, got, one.want)
		}
	}
}

func labels(t *testing.T, _ *house, f door) {
	team := "team-" + fresh(t)
	labelled := func(run string) string {
		made := request(fresh(t))
		made.Labels = map[string]string{"team": team, "run": run}
		return submit(t, f, made)
	}
	first, second := labelled("1"), labelled("a=b, ä")
	cancel(t, f, first)
	for _, one := range []struct {
		state  string
		labels []string
		want   []string
	}{
		{labels: []string{"team=" + team}, want: []string{second, first}},
		{labels: []string{"team=" + team, "run=1"}, want: []string{first}},
		{labels: []string{"run=a=b, ä", "team=" + team}, want: []string{second}},
		{labels: []string{"team=" + team, "run="}},
		{labels: []string{"team=" + team}, state: "queued", want: []string{second}},
	} {
		if got := pages(t, f, &pb.ListDeliberationsRequest{Labels: one.labels, State: one.state}); !slices.Equal(got, one.want) {
			t.Errorf("listed for %q, state %q, are %v, not %v", one.labels, one.state, got, one.want)
		}
	}
	page := ask(t, f, &pb.ListDeliberationsRequest{Labels: []string{"team=" + team, "run=1"}}, ok).reply.(*pb.ListDeliberationsResponse)
	if got := page.GetDeliberations()[0].GetLabels(); len(got) != 2 || got["run"] != "1" {
		t.Errorf("the summary's labels are %v", got)
	}
}

func ofTask(id, task string) *pb.ExecuteDeliberationRequest {
	made := request(id)
	made.TaskId = task
	return made
}

// pages reads a list to its end.
func pages(t *testing.T, f door, query *pb.ListDeliberationsRequest) (ids []string) {
	t.Helper()
	query = proto.CloneOf(query)
	for range 100 {
		page := ask(t, f, query, ok).reply.(*pb.ListDeliberationsResponse)
		if limit := int(query.GetPageSize()); limit > 0 && len(page.GetDeliberations()) > limit {
			t.Fatalf("a page of %d has %d", limit, len(page.GetDeliberations()))
		}
		for _, one := range page.GetDeliberations() {
			ids = append(ids, one.GetDeliberationId())
		}
		if query.PageToken = page.GetNextPageToken(); query.GetPageToken() == "" {
			return ids
		}
	}
	t.Fatal("the list has no end")
	return nil
}

func started(t *testing.T, h *house, id string) {
	t.Helper()
	if _, stored, err := h.worker.Started(t.Context(), id, 1, time.Time{}, 0); !stored || err != nil {
		t.Fatalf("start %s: %v %v", id, stored, err)
	}
}

func failed(t *testing.T, h *house, id string) {
	t.Helper()
	won(t)(h.worker.Write(t.Context(), &pb.DeliberationFailed{
		DeliberationId: id, TaskId: "task-" + id, ErrorMessage: "no agent answered",
		Results: []*pb.DeliberationResult{journaltest.Result(0, ""), journaltest.Result(1, "")},
	}, events.EndSubject(id)))
}

// won expects that what the worker wrote is stored.
func won(t *testing.T) func(bool, error) {
	t.Helper()
	return func(stored bool, err error) {
		t.Helper()
		if !stored || err != nil {
			t.Fatalf("it is stored: %v, %v", stored, err)
		}
	}
}
