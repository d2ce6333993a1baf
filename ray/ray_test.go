package ray_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	rayexecutorv1 "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/ray"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	const head = "http://head:8265"
	for address, want := range map[string]string{
		"ray://head:10001":               head,
		"ray://head":                     head,
		"ray://[::1]:10001/":             "http://[::1]:8265",
		head + "/\n":                     head,
		"https://ray.example.org/team/a": "https://ray.example.org/team/a",
	} {
		got, err := ray.ParseAddress(address)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v, %v; want %s", address, got, err, want)
		}
	}
}

func TestParseAddressSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const noScheme = "no scheme that is known"
	for address, want := range map[string]string{
		"":                         noScheme,
		"auto":                     noScheme,
		"head:8265":                noScheme,
		"ftp://head":               noScheme,
		"http://":                  "no host",
		"ray://:10001":             "no host",
		"http://me:hunter2@head":   "RAY_AUTH_TOKEN",
		"http://head?x=1":          "query",
		"http://head#x":            "fragment",
		"ray://head/x":             "path",
		"http://head:0":            "1 to 65535",
		"http://head:70000":        "1 to 65535",
		"http://me:hunter2@he ad/": "not a URL",
	} {
		_, err := ray.ParseAddress(address)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", address, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the error tells the password: %v", address, err)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"ray://a:10001", "https://a/b?c#d", "http://[::1", "head:8265", "ray://a:b@c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		dashboard, err := ray.ParseAddress(address)
		if err != nil {
			return
		}
		if dashboard.Hostname() == "" || dashboard.User != nil || strings.HasSuffix(dashboard.Path, "/") && dashboard.Path != "/" &&
			!strings.HasSuffix(strings.TrimSpace(address), "//") {
			t.Errorf("%q became %q", address, dashboard)
		}
	})
}

// dashboard serves a handler and returns a client of it.
func dashboard(t *testing.T, token string, handler http.HandlerFunc) *ray.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return newClient(t, ray.Cluster{Name: "test", Address: server.URL, Token: token})
}

func TestTokenIsSent(t *testing.T) {
	t.Parallel()
	client := dashboard(t, "s3cret\n", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		fmt.Fprint(w, `{"ray_version": "2.60.0"}`)
	})
	if version, err := client.Version(t.Context()); err != nil || version != "2.60.0" {
		t.Errorf("%q, %v", version, err)
	}
	if _, err := ray.NewClient(ray.Cluster{Address: "http://head", Token: "a\nb"}); err == nil {
		t.Error("a token of two lines was taken")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status int
		token  string
		header string
		body   string
		want   []string
	}{
		"no token":      {status: 401, body: "Unauthorized: no token\nmore", want: []string{"401", "Unauthorized: no token", "set RAY_AUTH_TOKEN"}},
		"wrong token":   {status: 403, token: "x", want: []string{"RAY_AUTH_TOKEN is not the token"}},
		"redirect":      {status: 302, header: "https://login.example.org", want: []string{"https://login.example.org", "own address"}},
		"not found":     {status: 404, want: []string{"is http://127.0.0.1:", "a Ray dashboard"}},
		"traceback":     {status: 500, body: "Traceback (most recent call last):\n  x\nValueError: odd\n", want: []string{"ValueError: odd", "dashboard.log"}},
		"Ray's JSON":    {status: 500, body: `{"result": false, "msg": "it broke", "data": {}}`, want: []string{"500 Internal Server Error: it broke"}},
		"endless line":  {status: 500, body: strings.Repeat("é", 10000), want: []string{"é…"}},
		"no UTF-8":      {status: 500, body: "\xff\xfe", want: []string{"500"}},
		"HTML":          {status: 200, body: "<html>", want: []string{"is http://127.0.0.1:", "a Ray dashboard?"}},
		"no version":    {status: 200, body: `{}`, want: []string{"no Ray version"}},
		"another shape": {status: 200, body: `{"ray_version": 7}`, want: []string{"not what Ray's dashboard says"}},
		"empty":         {status: 200, want: []string{"not what Ray's dashboard says"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := dashboard(t, test.token, func(w http.ResponseWriter, _ *http.Request) {
				if test.header != "" {
					w.Header().Set("Location", test.header)
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			_, err := client.Version(t.Context())
			for _, want := range append(test.want, `cluster "test"`) {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want %q", err, want)
				}
			}
			if err != nil && len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAClusterThatIsDown(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + listener.Addr().String()
	listener.Close()
	client := newClient(t, ray.Cluster{Name: "down", Address: address})
	status := client.Status(t.Context(), nil)
	if status.GetReachable() || !strings.Contains(status.GetError(), "is the cluster up") {
		t.Errorf("status: %v", status)
	}
}

func TestAReplyThatBreaksOff(t *testing.T) {
	t.Parallel()
	client := dashboard(t, "", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "{")
	})
	if _, err := client.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "broke off") {
		t.Error(err)
	}
}

// The dashboard's replies, as Ray 2.49 and 2.60 give them.
const (
	nodes = `{"result": true, "msg": "Node summary fetched.", "data": {"summary": [
	  {"raylet": {"nodeId": "a", "state": "ALIVE", "resourcesTotal": {"CPU": 4.0, "GPU": 1.0, "memory": 1e9}}},
	  {"raylet": {"nodeId": "b", "state": "ALIVE", "resourcesTotal": {"CPU": 8.0}}},
	  {"raylet": {"nodeId": "c", "state": "DEAD", "resourcesTotal": {"CPU": 16.0}}},
	  {"raylet": {}}],
	 "nodeLogicalResources": {"a": "1.5/4.0 CPU\n0.5/1.0 GPU\n0B/1GiB memory",
	  "b": "2.0/8.0 CPU (1.0 used of 3.0 reserved in placement groups)", "c": "9.0/16.0 CPU"}}}`
	serving = `{"controller_info": {"actor_name": "SERVE_CONTROLLER_ACTOR"}, "proxy_location": "EveryNode",
	 "applications": {"ray-executor": {"status": "%s", "message": "", "source": "declarative", "deployments":
	  {"Worker": {"status": "HEALTHY", "message": "", "target_num_replicas": 2,
	   "replicas": [{"state": "RUNNING"}, {"state": "%s"}]}}}}}`
)

// cluster serves the replies of a cluster whose worker is in a state.
func cluster(status, replica string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/version":
			fmt.Fprint(w, `{"ray_version": "2.60.0"}`)
		case "/nodes":
			fmt.Fprint(w, nodes)
		case "/api/serve/applications/":
			fmt.Fprintf(w, serving, status, replica)
		case "/api/jobs/":
			fmt.Fprint(w, `[{"type": "SUBMISSION", "job_id": null, "submission_id": "s", "status": "RUNNING", "start_time": 1}]`)
		default:
			http.NotFound(w, r)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	client := dashboard(t, "", cluster(running, running))
	want := &rayexecutorv1.Cluster{
		Name: "test", Address: client.Address(), RayVersion: "2.60.0", Reachable: true, Nodes: 2,
		CpusUsed: 3.5, CpusTotal: 12, GpusUsed: 0.5, GpusTotal: 1, WorkerReplicas: 2, WorkerReplicasTarget: 2,
	}
	if diff := cmp.Diff(want, client.Status(t.Context(), nil), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestStatusOfAWorkerThatStarts(t *testing.T) {
	t.Parallel()
	status := dashboard(t, "", cluster(deploying, "STARTING")).Status(t.Context(), nil)
	if status.GetWorkerReplicas() != 1 || status.GetWorkerReplicasTarget() != 2 ||
		!strings.Contains(status.GetError(), deploying) || !status.GetReachable() {
		t.Errorf("status: %v", status)
	}
}

func TestStatusTellsWhatItLearnt(t *testing.T) {
	t.Parallel()
	client := dashboard(t, "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/serve/applications/" {
			<-r.Context().Done()
			return
		}
		cluster("", "")(w, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // the other answers come sooner, on a loaded machine too
	defer cancel()
	status := client.Status(ctx, nil)
	if !status.GetReachable() || status.GetNodes() != 2 || !strings.Contains(status.GetError(), "no answer in time") {
		t.Errorf("status: %v", status)
	}
}

func TestFleetAsksAllAtOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		cluster(running, running)(w, r)
	}))
	defer up.Close()
	hung := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer hung.Close()
	fleet, err := ray.NewFleet(ray.Cluster{Name: "hung", Address: hung.URL}, ray.Cluster{Name: "up", Address: up.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // the other cluster answers sooner, on a loaded machine too
	defer cancel()
	statuses := fleet.Clusters(ctx)
	if len(statuses) != 2 || statuses[0].GetName() != "hung" || statuses[0].GetReachable() || statuses[0].GetError() == "" {
		t.Errorf("statuses: %v", statuses)
	}
	if statuses[1].GetName() != "up" || !statuses[1].GetReachable() || statuses[1].GetError() != "" {
		t.Errorf("statuses: %v", statuses)
	}
	if asked.Load() != 3 {
		t.Errorf("asked %d times for three things", asked.Load())
	}
	if clients := fleet.Clients(); len(clients) != 2 || clients[1].Name() != "up" {
		t.Errorf("clients: %v", clients)
	}
}

func TestFleetToldAgainIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		cluster(running, running)(w, r)
	}))
	defer server.Close()
	fleet, err := ray.NewFleet(ray.Cluster{Name: "up", Address: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	fleet.Clusters(t.Context())[0].Name = "the caller's own"
	if name := fleet.Clusters(t.Context())[0].GetName(); name != "up" {
		t.Errorf("a caller changed what others are told: %q", name)
	}
	if asked.Load() > 6 {
		t.Errorf("asked %d times", asked.Load())
	}
}

func TestFleetNamesTheClusterAtFault(t *testing.T) {
	t.Parallel()
	_, err := ray.NewFleet(ray.Cluster{Name: "good", Address: "ray://head:10001"}, ray.Cluster{Name: "bad", Address: "head"})
	if err == nil || !strings.Contains(err.Error(), `"bad"`) {
		t.Error(err)
	}
}
