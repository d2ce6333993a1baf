package ray_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"rayexecutor/ray"
	"rayexecutor/ray/worker"
	"rayexecutor/tests/await"
)

// Serve's words.
const (
	running, deploying      = "RUNNING", "DEPLOYING"
	declarative, imperative = "declarative", "imperative"
)

// fakeServe behaves as Ray's dashboard does: a PUT replaces all declarative
// applications, leaves those of serve.run alone and builds anew only what has
// changed; a build takes one look.
type fakeServe struct {
	mu       sync.Mutex
	running  bool
	proxies  string
	packages map[string]bool
	apps     map[string]*fakeApp
	puts     []json.RawMessage
	// outcome of the next builds: RUNNING unless set.
	outcome string
	// refuse is a status for PUTs.
	refuse int
	// onPut runs after a PUT.
	onPut func()
	// beats has the worker send heartbeats; log is each replica's.
	beats bool
	log   string
}

type fakeApp struct {
	Status  string          `json:"status"`
	Message string          `json:"message"`
	Source  string          `json:"source"`
	Config  json.RawMessage `json:"deployed_app_config"`
	builds  int
	next    string
}

func newFake(t *testing.T) (*fakeServe, *ray.Client) {
	t.Helper()
	fake := &fakeServe{packages: map[string]bool{}, apps: map[string]*fakeApp{}}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	return fake, newClient(t, ray.Cluster{Name: "fake", Address: server.URL})
}

func (f *fakeServe) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	name, isPackage := strings.CutPrefix(r.URL.Path, "/api/packages/gcs/")
	switch {
	case isPackage && r.Method == http.MethodPut:
		f.packages[name] = true
	case isPackage && !f.packages[name]:
		http.Error(w, "Package does not exist", http.StatusNotFound)
	case isPackage:
	case r.URL.Path == "/api/v0/logs/file":
		fmt.Fprintf(w, f.log, r.FormValue("node_id"), r.FormValue("filename"))
	case r.Method == http.MethodPut && f.refuse != 0:
		http.Error(w, "1 validation error for ServeDeploySchema", f.refuse)
	case r.Method == http.MethodPut:
		f.apply(body)
	default:
		f.answer(w)
	}
}

func (f *fakeServe) apply(body []byte) {
	var schema struct {
		ProxyLocation string            `json:"proxy_location"`
		Applications  []json.RawMessage `json:"applications"`
	}
	if err := json.Unmarshal(body, &schema); err != nil {
		panic(err)
	}
	f.puts = append(f.puts, body)
	if !f.running {
		f.running, f.proxies = true, schema.ProxyLocation
	}
	named := map[string]bool{}
	for _, config := range schema.Applications {
		var app struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(config, &app); err != nil {
			panic(err)
		}
		named[app.Name] = true
		f.build(app.Name, config)
	}
	for name, app := range f.apps {
		if app.Source == declarative && !named[name] {
			delete(f.apps, name)
		}
	}
	if f.onPut != nil {
		f.onPut()
	}
}

func (f *fakeServe) build(name string, config json.RawMessage) {
	app := f.apps[name]
	if app == nil {
		app = &fakeApp{}
		f.apps[name] = app
	}
	app.Source = declarative
	if string(app.Config) == string(config) {
		return
	}
	app.Config, app.Status, app.Message = config, deploying, ""
	app.builds++
	app.next = running
	if f.outcome != "" {
		app.next = f.outcome
	}
}

func (f *fakeServe) answer(w http.ResponseWriter) {
	if !f.running {
		fmt.Fprint(w, `{"controller_info": {}, "proxies": {}, "applications": {}, "target_capacity": null}`)
		return
	}
	applications := map[string]any{}
	for name, app := range f.apps {
		applications[name] = f.describe(app)
		if app.next != "" {
			app.Status, app.next = app.next, ""
			if app.Status == "DEPLOY_FAILED" {
				app.Message = "Deploying app failed with exception:\nTraceback (most recent call last):\n  x\n\x1b[31mModuleNotFoundError\x1b[0m: No module named 'nope'\n"
			}
		}
	}
	fmt.Fprint(w, encoded(map[string]any{
		"controller_info": map[string]any{"actor_name": "SERVE_CONTROLLER_ACTOR"},
		"proxy_location":  f.proxies, "http_options": map[string]any{"port": 8000, "ssl_keyfile": nil},
		"grpc_options": map[string]any{"port": 9000}, "target_capacity": 100.0, "applications": applications,
	}))
}

func (f *fakeServe) describe(app *fakeApp) map[string]any {
	var config struct {
		Args struct {
			Replicas int `json:"replicas"`
		} `json:"args"`
	}
	_ = json.Unmarshal(app.Config, &config)
	state, status := "STARTING", "UPDATING"
	if app.Status == running {
		state, status = running, "HEALTHY"
	}
	replicas := make([]map[string]string, config.Args.Replicas)
	for i := range replicas {
		replicas[i] = map[string]string{
			"state": state, "replica_id": fmt.Sprintf("r%d", i), "node_id": fmt.Sprintf("n%d", i), "node_ip": "10.0.0.1",
			"log_file_path": fmt.Sprintf("/serve/replica_%d.log", i),
		}
	}
	var user any
	if f.beats {
		user = map[string]any{"heartbeat_s": 10}
	}
	return map[string]any{
		"status": app.Status, "message": app.Message, "source": app.Source, "deployed_app_config": app.Config,
		"deployments": map[string]any{"Worker": map[string]any{
			"status": status, "message": "", "target_num_replicas": config.Args.Replicas, "replicas": replicas,
			"deployment_config": map[string]any{"name": "Worker", "user_config": user},
		}},
	}
}

func encoded(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// sent is the last PUT.
func (f *fakeServe) sent(t *testing.T) map[string]any {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var sent map[string]any
	if err := json.Unmarshal(f.puts[len(f.puts)-1], &sent); err != nil {
		t.Fatal(err)
	}
	return sent
}

// rollOut deploys a small package and returns what was told.
func rollOut(t *testing.T, client *ray.Client, replicas int) ([]string, error) {
	t.Helper()
	var progress []string
	ctx, cancel := context.WithTimeout(t.Context(), await.Limit)
	defer cancel()
	err := ray.Deploy(ctx, client, options(packed(t, "x = 1"), replicas, func(format string, args ...any) {
		progress = append(progress, fmt.Sprintf(format, args...))
	}))
	return progress, err
}

func TestDeployOnAFreshCluster(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	progress, err := rollOut(t, client, 2)
	if err != nil {
		t.Fatal(err)
	}
	pack := packed(t, "x = 1")
	want := fmt.Sprintf(`{"applications":[{"args":{"cluster":"fake","model_hosts":[],"nats_prefix":"","nats_url":"nats://127.0.0.1:1",`+
		`"pools":{"default":10},"replicas":2,"version":%q},"import_path":"ray_executor_worker.app:build",`+
		`"name":"ray-executor","route_prefix":null,"runtime_env":{"working_dir":%q}}],"proxy_location":"Disabled"}`,
		pack.Hash, pack.URI())
	if sent := encoded(fake.sent(t)); sent != want {
		t.Errorf("sent %s\nwant %s", sent, want)
	}
	if !fake.packages[pack.Name()] {
		t.Errorf("packages: %v", fake.packages)
	}
	if last := progress[len(progress)-1]; last != "worker: RUNNING, 2 of 2 replicas" {
		t.Errorf("told %q", progress)
	}
}

func TestDeployTwiceDoesNothing(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	if _, err := rollOut(t, client, 1); err != nil {
		t.Fatal(err)
	}
	progress, err := rollOut(t, client, 1)
	if err != nil || len(fake.puts) != 1 || len(progress) != 1 || !strings.Contains(progress[0], "nothing to do") {
		t.Errorf("%v, %d puts, told %q", err, len(fake.puts), progress)
	}
}

func TestDeployUploadsAPackageThatRayDropped(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	if _, err := rollOut(t, client, 1); err != nil {
		t.Fatal(err)
	}
	clear(fake.packages)
	if _, err := rollOut(t, client, 1); err != nil || len(fake.packages) != 1 || len(fake.puts) != 1 {
		t.Errorf("%v, packages %v, %d puts", err, fake.packages, len(fake.puts))
	}
}

func TestDeployUnderTheClustersLogging(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	if _, err := rollOut(t, client, 1); err != nil {
		t.Fatal(err)
	}
	app := fake.apps[ray.Application]
	app.Config = append(json.RawMessage(`{"logging_config":{"encoding":"JSON"},`), app.Config[1:]...)
	if progress, err := rollOut(t, client, 1); err != nil || len(fake.puts) != 1 {
		t.Errorf("%v, %d puts, told %q", err, len(fake.puts), progress)
	}
}

func TestDeployKeepsEverythingElse(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	const theirs = `{"name":"theirs","import_path":"a:b","args":{"n":12345678901234567890}}`
	fake.running, fake.proxies = true, "EveryNode"
	fake.apps["theirs"] = &fakeApp{Status: running, Source: declarative, Config: json.RawMessage(theirs), builds: 1}
	fake.apps["notebook"] = &fakeApp{Status: running, Source: imperative}
	// What a PUT of that name had left, before serve.run took the name.
	fake.apps["stale"] = &fakeApp{Status: running, Source: imperative, Config: json.RawMessage(`{"name":"stale"}`)}
	fake.apps["going"] = &fakeApp{Status: "DELETING", Source: declarative}
	if _, err := rollOut(t, client, 1); err != nil {
		t.Fatal(err)
	}
	if app := fake.apps["theirs"]; app == nil || app.builds != 1 || string(app.Config) != theirs {
		t.Errorf("theirs: %+v", app)
	}
	if fake.apps["notebook"] == nil || fake.apps["stale"].Source != imperative || fake.apps["going"] != nil {
		t.Errorf("apps: %v", fake.apps)
	}
	sent := fake.sent(t)
	delete(sent, "applications")
	want := `{"grpc_options":{"port":9000},"http_options":{"port":8000,"ssl_keyfile":null},"proxy_location":"EveryNode","target_capacity":100}`
	if progress := encoded(sent); progress != want {
		t.Errorf("sent %s\nwant %s", progress, want)
	}
}

func TestDeployRefusesToLoseOthers(t *testing.T) {
	t.Parallel()
	for want, app := range map[string]*fakeApp{
		"reports no config to keep": {Status: deploying, Source: declarative},
		"secrets redacted": {Status: running, Source: declarative, Config: json.RawMessage(
			`{"name":"theirs","runtime_env":{"env_vars":{"KEY":"<redacted>"}}}`)},
	} {
		fake, client := newFake(t)
		fake.running, fake.apps["theirs"] = true, app
		if _, err := rollOut(t, client, 1); err == nil || !strings.Contains(err.Error(), want) || len(fake.puts) != 0 {
			t.Errorf("%v, %d puts; want %q", err, len(fake.puts), want)
		}
	}
}

func TestDeployThatFailsSaysWhyAndIsBuiltAnew(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	fake.outcome = "DEPLOY_FAILED"
	_, err := rollOut(t, client, 1)
	if err == nil || !strings.Contains(err.Error(), "ModuleNotFoundError: No module named 'nope'") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%q", err)
	}
	fake.outcome = ""
	progress, err := rollOut(t, client, 1)
	if err != nil || fake.apps[ray.Application].builds != 2 || !strings.Contains(progress[0], "building it anew") {
		t.Errorf("%v, told %q", err, progress)
	}
	// The mark of the repeated build is no difference.
	if _, err := rollOut(t, client, 1); err != nil || len(fake.puts) != 2 {
		t.Errorf("%v, %d puts", err, len(fake.puts))
	}
}

func TestDeployJoinsOneThatIsUnderWay(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	if _, err := rollOut(t, client, 1); err != nil {
		t.Fatal(err)
	}
	app := fake.apps[ray.Application]
	app.Status, app.next = deploying, running
	progress, err := rollOut(t, client, 1)
	if err != nil || len(fake.puts) != 1 || !strings.Contains(progress[0], "already") {
		t.Errorf("%v, %d puts, told %q", err, len(fake.puts), progress)
	}
}

func TestDeployEndsWithItsContext(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	fake.outcome = deploying
	ctx, cancel := context.WithTimeout(t.Context(), impatient)
	defer cancel()
	err := ray.Deploy(ctx, client, options(packed(t, ""), 2, nil))
	if err == nil || !strings.Contains(err.Error(), "DEPLOYING, 0 of 2 replicas: Worker UPDATING, 2 STARTING") ||
		!strings.Contains(err.Error(), "deadline") {
		t.Error(err)
	}
}

func TestDeployNoticesAnotherHand(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	fake.onPut = func() { delete(fake.apps, ray.Application) }
	if _, err := rollOut(t, client, 1); err == nil || !strings.Contains(err.Error(), "someone else") {
		t.Error(err)
	}
}

func TestDeployRefusedByServe(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	fake.refuse = http.StatusBadRequest
	if _, err := rollOut(t, client, 1); err == nil || !strings.Contains(err.Error(), "1 validation error for ServeDeploySchema") {
		t.Error(err)
	}
}

func TestDeployWithPIP(t *testing.T) {
	t.Parallel()
	fake, client := newFake(t)
	chosen := options(worker.Package{}, 1, nil)
	chosen.PIP = true
	if err := ray.Deploy(t.Context(), client, chosen); err != nil {
		t.Fatal(err)
	}
	if sent := string(fake.puts[0]); !strings.Contains(sent, `"pip":["nats-py==2.16.0"]`) {
		t.Errorf("sent %s", sent)
	}
}

func TestDeployChecksItsOptions(t *testing.T) {
	t.Parallel()
	_, client := newFake(t)
	for want, change := range map[string]func(*ray.Options){
		"WORKER_REPLICAS":             func(o *ray.Options) { o.Replicas = 0 },
		"POOLS":                       func(o *ray.Options) { o.Pools = nil },
		"POOLS: gpu":                  func(o *ray.Options) { o.Pools = map[string]int{"gpu": 0} },
		"WORKER_NATS_URL: not a":      func(o *ray.Options) { o.NATSURL = "" },
		"WORKER_NATS_URL: not a NATS": func(o *ray.Options) { o.NATSURL = "nats://a,nats://" },
		"scheme":                      func(o *ray.Options) { o.NATSURL = "http://nats" },
		"NATS_USER and NATS_PASSWORD": func(o *ray.Options) { o.NATSURL = "nats://a, nats://me:hunter2@b" },
		"NATS_TOKEN":                  func(o *ray.Options) { o.NATSURL = "nats://me:hunter2@b" },
	} {
		chosen := options(packed(t, ""), 1, nil)
		change(&chosen)
		err := ray.Deploy(t.Context(), client, chosen)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
