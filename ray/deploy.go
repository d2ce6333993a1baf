package ray

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"rayexecutor/ray/worker"
)

// importPath is the function that makes the Serve application.
const importPath = "ray_executor_worker.app:build"

// redeployed is a variable in the runtime_env whose change makes Serve build a
// failed worker anew: an equal config would be left as it failed.
const redeployed = "RAY_EXECUTOR_REDEPLOYED"

// Options says how the worker is deployed. NATSURL, Pools and Replicas are
// needed.
type Options struct {
	// NATSURL is NATS as the Ray nodes see it: one URL or several, separated
	// by commas, without user, password or token.
	NATSURL string
	// NATSPrefix precedes the names of the journal's stream and buckets.
	NATSPrefix string
	// Pools are the pools to pull from, and how many deliberations of each a
	// replica holds at once.
	Pools map[string]int
	// ClusterName is in every event of this cluster. Empty: the client's.
	ClusterName string
	// ModelHosts are the hosts that agents may call.
	ModelHosts []string
	// ModelURL is the model server of requests that name none: workers say
	// whether they reach it. Empty: there is none.
	ModelURL string
	// Heartbeats are waited for once the replicas run, for at most Patience (0: a
	// minute). Nil: they are not.
	Heartbeats Heartbeats
	Patience   time.Duration
	// Replicas is the number of worker replicas, at least 1.
	Replicas int
	// PIP has the Ray nodes install nats-py, instead of shipping it.
	PIP bool
	// Package replaces what this binary carries, where its Hash is set.
	Package worker.Package
	// Progress is called with what happens, a line at a time. Nil: nothing is reported.
	Progress func(line string)
}

// Deploy makes or updates the worker on a cluster, and returns once all its
// replicas run and, where there are heartbeats, have sent one over NATS. It may be repeated: where the same worker runs already it
// changes nothing, and one that has failed is built anew. Every other Serve
// application of the cluster stays as it is deployed. ctx bounds it all; the
// error says why the replicas do not run.
//
// Serve has no compare-and-set: two deploys at once, of any application,
// may lose one of the two.
func Deploy(ctx context.Context, client *Client, options Options) error {
	if err := options.check(); err != nil {
		return err
	}
	d, err := newRollout(client, options)
	if err != nil {
		return err
	}
	if err := d.upload(ctx); err != nil {
		return err
	}
	done, err := d.apply(ctx)
	if err != nil {
		return err
	}
	if !done {
		if err := d.wait(ctx); err != nil {
			return err
		}
	}
	return d.awaitHeartbeats(ctx)
}

// rollout is one Deploy.
type rollout struct {
	client     *Client
	pack       worker.Package
	config     appConfig
	heartbeats Heartbeats
	patience   time.Duration
	say        func(format string, args ...any)
}

// appConfig is the worker as a Serve application.
type appConfig struct {
	Name        string     `json:"name"`
	ImportPath  string     `json:"import_path"`
	RoutePrefix *string    `json:"route_prefix"`
	RuntimeEnv  runtimeEnv `json:"runtime_env"`
	Args        appArgs    `json:"args"`
}

type runtimeEnv struct {
	WorkingDir string            `json:"working_dir"`
	PIP        []string          `json:"pip,omitempty"`
	EnvVars    map[string]string `json:"env_vars,omitempty"`
}

// appArgs are what the Python side's Settings read.
type appArgs struct {
	NATSURL    string         `json:"nats_url"`
	NATSPrefix string         `json:"nats_prefix"`
	Pools      map[string]int `json:"pools"`
	Cluster    string         `json:"cluster"`
	ModelHosts []string       `json:"model_hosts"`
	ModelURL   string         `json:"model_url,omitempty"`
	Version    string         `json:"version"`
	Replicas   int            `json:"replicas"`
}

func newRollout(client *Client, options Options) (*rollout, error) {
	pack := options.Package
	if pack.Hash == "" {
		var err error
		if pack, err = worker.New(options.PIP); err != nil {
			return nil, err
		}
	}
	progress := options.Progress
	if progress == nil {
		progress = func(string) {}
	}
	return &rollout{
		client: client, pack: pack, config: options.config(client.Name(), pack),
		heartbeats: options.Heartbeats, patience: cmp.Or(options.Patience, heartbeatWait),
		say: func(format string, args ...any) { progress(fmt.Sprintf(format, args...)) },
	}, nil
}

func (o *Options) config(cluster string, pack worker.Package) appConfig {
	if o.ClusterName != "" {
		cluster = o.ClusterName
	}
	config := appConfig{
		Name: Application, ImportPath: importPath,
		RuntimeEnv: runtimeEnv{WorkingDir: pack.URI()},
		Args: appArgs{
			NATSURL: o.NATSURL, NATSPrefix: o.NATSPrefix, Pools: o.Pools, Cluster: cluster,
			ModelHosts: append([]string{}, o.ModelHosts...), // never null
			ModelURL:   o.ModelURL,
			Version:    pack.Hash, Replicas: o.Replicas,
		},
	}
	if o.PIP {
		config.RuntimeEnv.PIP = []string{worker.Requirement()}
	}
	return config
}

// check names the option at fault, by its setting.
func (o *Options) check() error {
	if o.Replicas < 1 {
		return fmt.Errorf("WORKER_REPLICAS: %d is not at least 1", o.Replicas)
	}
	if len(o.Pools) == 0 {
		return errors.New("POOLS: the worker needs at least one pool to pull from")
	}
	for _, pool := range slices.Sorted(maps.Keys(o.Pools)) {
		if o.Pools[pool] < 1 {
			return fmt.Errorf("POOLS: %s: %d in flight is not at least 1", pool, o.Pools[pool])
		}
	}
	return checkNATS(o.NATSURL)
}

// checkNATS never repeats the URL whole: it may carry what it must not.
func checkNATS(urls string) error {
	for part := range strings.SplitSeq(urls, ",") {
		parsed, err := url.Parse(strings.TrimSpace(part))
		switch {
		case err != nil || parsed.Hostname() == "":
			return errors.New("WORKER_NATS_URL: not a NATS URL: write nats://host:4222")
		case parsed.User != nil:
			return fmt.Errorf("WORKER_NATS_URL: %s has credentials in it, and everyone who reaches the dashboard can read "+
				"Serve's config: put NATS_USER and NATS_PASSWORD, or NATS_TOKEN, into the Ray nodes' environment",
				parsed.Redacted())
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, parsed.Scheme):
			return fmt.Errorf("WORKER_NATS_URL: scheme %q is not nats, tls, ws or wss", parsed.Scheme)
		}
	}
	return nil
}

// upload stores the package where the cluster lacks it. It is asked for even
// when the worker runs: Ray drops a package that nothing uses.
func (d *rollout) upload(ctx context.Context) error {
	there, err := d.client.HasPackage(ctx, d.pack.Name())
	if err != nil || there {
		return err
	}
	d.say("uploading the worker, %d kB", len(d.pack.Zip)/1000)
	return d.client.Upload(ctx, d.pack.Name(), d.pack.Zip)
}

// apply puts the worker among the cluster's applications, unless it runs already;
// done reports that nothing is left to wait for.
func (d *rollout) apply(ctx context.Context) (done bool, err error) {
	serve, err := d.client.instance(ctx)
	if err != nil {
		return false, err
	}
	existing, deployed := serve.Applications[Application]
	same := deployed && d.same(existing.Config)
	switch running, complete := existing.complete(); {
	case same && complete:
		d.say("the worker runs already, %s: nothing to do", replicas(running))
		return true, nil
	case same && !existing.failed():
		d.say("the worker is being deployed already")
		return false, nil
	case same:
		d.say("the worker is %s: building it anew", existing.Status)
		d.config.RuntimeEnv.EnvVars = map[string]string{redeployed: time.Now().UTC().Format(time.RFC3339Nano)}
	}
	return false, d.put(ctx, &serve)
}

func (d *rollout) put(ctx context.Context, serve *instance) error {
	schema, err := serve.schema(Application, d.config)
	if err != nil {
		return fmt.Errorf("cluster %q: %w", d.client.Name(), err)
	}
	if !serve.running() {
		d.say("starting Ray Serve, without HTTP proxies")
	}
	if others := len(schema.Applications) - 1; others > 0 {
		d.say("keeping the cluster's other Serve applications: %d", others)
	}
	return d.client.putApplications(ctx, schema)
}

// same reports whether a deployed config is ours. Serve returns a config as it was
// put, but for the logging that the cluster sets for all applications.
func (d *rollout) same(deployed json.RawMessage) bool {
	ours, err := json.Marshal(d.config)
	if err != nil {
		return false
	}
	return reflect.DeepEqual(canonical(deployed), canonical(ours))
}

// canonical is a config without what Serve, or a repeated deploy, added.
func canonical(config json.RawMessage) map[string]any {
	var fields map[string]any
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil
	}
	delete(fields, "logging_config")
	environment, _ := fields["runtime_env"].(map[string]any)
	if variables, ok := environment["env_vars"].(map[string]any); ok {
		delete(variables, redeployed)
		if len(variables) == 0 {
			delete(environment, "env_vars")
		}
	}
	return fields
}
