package functions_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/proto/ray_executor/v1/rayexecutorv1connect"
)

var update = flag.Bool("update", false, "write the golden files of the four old RPCs anew")

// Callers of the Python service's four RPCs see no field of a strategy that they
// did not ask for: some refuse JSON with unknown fields. The golden files are of
// the version before strategies; a change of one breaks such a caller.
func TestOldClientsSeeWhatTheySaw(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.submit(t, "d")
	d.journal.start("d")
	d.journal.agent("d", 0, "yes")
	end := &pb.DeliberationCompleted{
		DeliberationId: "d", TaskId: "t-1", Results: []*pb.DeliberationResult{journaltest.Result(0, "yes")},
	}
	if _, err := d.journal.End(t.Context(), "d", end, ""); err != nil {
		t.Fatal(err)
	}
	d.submit(t, "running")
	d.journal.start("running")
	d.journal.agent("running", 0, "maybe")

	for name, call := range map[string]struct {
		method  string
		request string
		reply   proto.Message
	}{
		"ExecuteDeliberation": {
			"ExecuteDeliberation", `{"task_id":"t-1","task_description":"Decide.","role":"DEV","agents":[{"id":"a"}],"deliberation_id":"d"}`,
			&pb.ExecuteDeliberationResponse{},
		},
		"GetDeliberationStatus.completed": {"GetDeliberationStatus", `{"deliberation_id":"d"}`, &pb.GetDeliberationStatusResponse{}},
		"GetDeliberationStatus.running":   {"GetDeliberationStatus", `{"deliberation_id":"running"}`, &pb.GetDeliberationStatusResponse{}},
		"GetDeliberationStatus.not_found": {"GetDeliberationStatus", `{"deliberation_id":"none"}`, &pb.GetDeliberationStatusResponse{}},
		"GetStatus":                       {"GetStatus", `{"include_stats":true}`, &pb.GetStatusResponse{}},
		"GetActiveJobs":                   {"GetActiveJobs", `{}`, &pb.GetActiveJobsResponse{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := d.call(t, call.method, call.request)
			// protojson reads what the door wrote: an unknown field is an error.
			if err := events.UnmarshalJSON(data, call.reply); err != nil {
				t.Fatal(err)
			}
			data = withoutClock(t, data, call.reply)
			same(t, name+".json", append(data, '\n'))
			wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(call.reply)
			if err != nil {
				t.Fatal(err)
			}
			same(t, name+".binpb", wire)
		})
	}
}

// call posts JSON as Connect's clients do, and returns the body.
func (d *doors) call(t *testing.T, method, body string) []byte {
	t.Helper()
	url := d.url + "/" + rayexecutorv1connect.RayExecutorServiceName + "/" + method
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", events.JSON)
	answer, err := d.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", method, answer.Status, data, err)
	}
	return data
}

// withoutClock replaces in a reply and in its JSON what the time of the call decides.
func withoutClock(t *testing.T, data []byte, reply proto.Message) []byte {
	t.Helper()
	switch reply := reply.(type) {
	case *pb.GetActiveJobsResponse:
		for _, job := range reply.GetJobs() {
			data = bytes.ReplaceAll(data, []byte(job.GetRuntime()), []byte("1s"))
			job.Runtime = "1s"
		}
		if len(reply.GetJobs()) != 1 || reply.GetJobs()[0].GetStatus() != string(deliberation.Running) {
			t.Errorf("the jobs are %v", reply)
		}
	case *pb.GetStatusResponse:
		if reply.GetUptimeSeconds() > 0 { // a slow machine
			data = bytes.Replace(data, fmt.Appendf(nil, `"uptime_seconds":"%d"`, reply.GetUptimeSeconds()), []byte(`"uptime_seconds":"0"`), 1)
			reply.UptimeSeconds = 0
		}
	}
	return data
}

// same compares bytes with a golden file.
func same(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "old", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: old callers see something else\ngot  %q\nwant %q", path, got, want)
	}
}
