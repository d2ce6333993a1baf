package ray_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rayexecutor/ray"
	"rayexecutor/ray/local"
	"rayexecutor/ray/worker"
	"rayexecutor/tests/await"
)

// bystander is somebody else's application.
const bystander = `
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Bystander:
    def __call__(self):
        return "here"

def build(args):
    return Bystander.bind()
`

// broken is a worker that cannot be imported.
const broken = `import no_such_module`

// crashing is a worker whose replicas cannot start.
const crashing = `
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Worker:
    def __init__(self):
        raise RuntimeError("no licence for this")

def build(args):
    return Worker.bind()
`

// TestRealRay deploys on a real Ray, step after step: each starts from what the
// one before left.
func TestRealRay(t *testing.T) {
	head := startRay(t)
	client := newClient(t, ray.Cluster{Name: "real", Address: head.Address(), Token: head.Token()})

	t.Run("a fresh cluster says that the worker is missing", func(t *testing.T) {
		status := client.Status(t.Context(), nil)
		if !status.GetReachable() || status.GetNodes() != 1 || status.GetCpusTotal() != 4 ||
			!strings.Contains(status.GetError(), "ray-executor deploy") {
			t.Errorf("status: %v", status)
		}
	})

	deployBystander(t, head)
	before := serveApp(t, head, "bystander")

	t.Run("an import that fails says why", func(t *testing.T) {
		err := deploy(t, client, packed(t, broken), 1, nil)
		if err == nil || !strings.Contains(err.Error(), "no_such_module") {
			t.Errorf("deploy: %v", err)
		}
	})

	t.Run("a replica that crashes says why", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := ray.Deploy(ctx, client, options(packed(t, crashing), 1, nil))
		if err == nil || !strings.Contains(err.Error(), "no licence for this") {
			t.Errorf("deploy: %v", err)
		}
	})

	t.Run("what has failed is built anew, though nothing changed", func(t *testing.T) {
		var progress strings.Builder
		err := deploy(t, client, packed(t, crashing), 1, func(format string, args ...any) {
			fmt.Fprintf(&progress, format+"\n", args...)
		})
		if err == nil || !strings.Contains(err.Error(), "no licence for this") ||
			!strings.Contains(progress.String(), "building it anew") || !strings.Contains(progress.String(), deploying) {
			t.Errorf("deploy: %v\n%s", err, progress.String())
		}
	})

	t.Run("the worker runs, though NATS is away", func(t *testing.T) {
		begun := time.Now()
		if err := deploy(t, client, worker.Package{}, 1, t.Logf); err != nil {
			t.Fatal(err)
		}
		t.Logf("deployed in %v", time.Since(begun))
		if status := client.Status(t.Context(), nil); status.GetError() != "" || status.GetWorkerReplicas() != 1 ||
			status.GetWorkerReplicasTarget() != 1 {
			t.Errorf("status: %v", status)
		}
	})

	t.Run("deploying again does nothing", func(t *testing.T) {
		replicas := serveApp(t, head, ray.Application)
		var progress []string
		if err := deploy(t, client, worker.Package{}, 1, func(format string, args ...any) {
			progress = append(progress, fmt.Sprintf(format, args...))
		}); err != nil {
			t.Fatal(err)
		}
		if len(progress) != 1 || !strings.Contains(progress[0], "nothing to do") {
			t.Errorf("progress: %q", progress)
		}
		if diff := cmp.Diff(replicas, serveApp(t, head, ray.Application)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("more replicas are rolled out", func(t *testing.T) {
		if err := deploy(t, client, worker.Package{}, 2, t.Logf); err != nil {
			t.Fatal(err)
		}
		if status := client.Status(t.Context(), nil); status.GetWorkerReplicas() != 2 {
			t.Errorf("status: %v", status)
		}
	})

	t.Run("the other application was never touched", func(t *testing.T) {
		if diff := cmp.Diff(before, serveApp(t, head, "bystander")); diff != "" {
			t.Error(diff)
		}
	})
}

// startRay starts a Ray of the test's own.
func startRay(t *testing.T) *local.Ray {
	t.Helper()
	venv := os.Getenv("RAY_VENV")
	if venv == "" {
		venv = filepath.Join("..", ".venv")
	}
	venv, err := filepath.Abs(venv)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(venv, "bin", "ray")); errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no Ray in %s: run `make test`, which installs it, or set RAY_VENV", venv)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	begun := time.Now()
	head, err := local.Start(ctx, local.Options{Venv: venv, NumCPUs: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %v", time.Since(begun))
	t.Cleanup(func() {
		if err := head.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return head
}

func newClient(t *testing.T, cluster ray.Cluster) *ray.Client {
	t.Helper()
	client, err := ray.NewClient(cluster)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func packed(t *testing.T, app string) worker.Package {
	t.Helper()
	pack, err := worker.Pack(map[string][]byte{
		"ray_executor_worker/__init__.py": nil, "ray_executor_worker/app.py": []byte(app),
	})
	if err != nil {
		t.Fatal(err)
	}
	return pack
}

func options(pack worker.Package, replicas int, say func(string, ...any)) ray.Options {
	options := ray.Options{
		NATSURL: "nats://127.0.0.1:1", Pools: map[string]int{"default": 10}, Replicas: replicas, Package: pack,
	}
	if say != nil {
		options.Progress = func(line string) { say("%s", line) }
	}
	return options
}

func deploy(t *testing.T, client *ray.Client, pack worker.Package, replicas int, say func(string, ...any)) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	return ray.Deploy(ctx, client, options(pack, replicas, say))
}

// deployBystander puts somebody else's application, as they would themselves.
func deployBystander(t *testing.T, head *local.Ray) {
	t.Helper()
	pack, err := worker.Pack(map[string][]byte{"bystander.py": []byte(bystander)})
	if err != nil {
		t.Fatal(err)
	}
	send(t, head, "/api/packages/gcs/"+pack.Name(), pack.Zip)
	config, err := json.Marshal(map[string]any{
		"proxy_location": "Disabled",
		"applications": []any{map[string]any{
			"name": "bystander", "import_path": "bystander:build", "route_prefix": nil,
			"runtime_env": map[string]any{"working_dir": pack.URI(), "env_vars": map[string]string{"SECRET": "kept"}},
			"args":        map[string]any{"big": json.Number("12345678901234567890")},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	send(t, head, "/api/serve/applications/", config)
	await.NoError(t, "the bystander", func() error {
		if app := serveApp(t, head, "bystander"); app["status"] != running {
			return fmt.Errorf("it is %v", app)
		}
		return nil
	})
}

func send(t *testing.T, head *local.Ray, path string, body []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, head.Address()+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	reply(t, head, request)
}

// serveApp is what Serve tells of an application, but for the time of the last
// PUT, which names every application.
func serveApp(t *testing.T, head *local.Ray, name string) map[string]any {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, head.Address()+"/api/serve/applications/", nil)
	if err != nil {
		t.Fatal(err)
	}
	var progress struct {
		Applications map[string]map[string]any `json:"applications"`
	}
	decoder := json.NewDecoder(bytes.NewReader(reply(t, head, request)))
	decoder.UseNumber()
	if err := decoder.Decode(&progress); err != nil {
		t.Fatal(err)
	}
	delete(progress.Applications[name], "last_deployed_time_s")
	return progress.Applications[name]
}

func reply(t *testing.T, head *local.Ray, request *http.Request) []byte {
	t.Helper()
	response, err := head.HTTP().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v: %s", request.URL, response.Status, err, body)
	}
	return body
}
