package ray

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// servePath is Serve's declarative API. A PUT replaces the whole list of
// applications, and there is no compare-and-set.
const servePath = "/api/serve/applications/"

// The states of a Serve application that matter here.
const (
	statusRunning      = "RUNNING"
	statusDeleting     = "DELETING"
	statusDeployFailed = "DEPLOY_FAILED"
)

// instance is what GET returns of Serve. Raw fields are put back as they are.
type instance struct {
	Controller struct {
		ActorName string `json:"actor_name"`
	} `json:"controller_info"`
	ProxyLocation  string                 `json:"proxy_location"`
	HTTPOptions    json.RawMessage        `json:"http_options"`
	GRPCOptions    json.RawMessage        `json:"grpc_options"`
	TargetCapacity json.RawMessage        `json:"target_capacity"`
	Applications   map[string]application `json:"applications"`
}

// application is one application as Serve reports it.
type application struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	// Source is declarative (a PUT) or imperative (serve.run).
	Source      string                `json:"source"`
	Config      json.RawMessage       `json:"deployed_app_config"`
	Deployments map[string]deployment `json:"deployments"`
}

type deployment struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	Target  int    `json:"target_num_replicas"`
	Config  struct {
		UserConfig json.RawMessage `json:"user_config"`
	} `json:"deployment_config"`
	Replicas []replica `json:"replicas"`
}

// replica is one process of a deployment.
type replica struct {
	ID     string `json:"replica_id"`
	State  string `json:"state"`
	NodeID string `json:"node_id"`
	NodeIP string `json:"node_ip"`
	// Log is its log's path below the logs of the node's session.
	Log string `json:"log_file_path"`
}

// deploySchema is what PUT takes.
type deploySchema struct {
	ProxyLocation  string          `json:"proxy_location,omitempty"`
	HTTPOptions    json.RawMessage `json:"http_options,omitempty"`
	GRPCOptions    json.RawMessage `json:"grpc_options,omitempty"`
	TargetCapacity json.RawMessage `json:"target_capacity,omitempty"`
	Applications   []any           `json:"applications"`
}

func (c *Client) instance(ctx context.Context) (instance, error) {
	return read[instance](ctx, c, servePath)
}

func (c *Client) putApplications(ctx context.Context, schema deploySchema) error {
	body, err := json.Marshal(schema)
	if err != nil {
		return fmt.Errorf("encode the Serve config: %w", err)
	}
	_, err = c.do(ctx, put(servePath, "application/json", body))
	return err
}

// running reports whether Serve has been started on the cluster.
func (i *instance) running() bool { return i.Controller.ActorName != "" }

// schema is the PUT that changes nothing but the application called name: of
// Serve it keeps what PUT would reset, of the others it repeats what they were
// deployed with.
func (i *instance) schema(name string, config any) (deploySchema, error) {
	apps, err := i.others(name)
	if err != nil {
		return deploySchema{}, err
	}
	schema := deploySchema{Applications: append(apps, config), ProxyLocation: proxiesOff}
	if i.running() {
		schema.ProxyLocation = i.ProxyLocation
		schema.HTTPOptions, schema.GRPCOptions = given(i.HTTPOptions), given(i.GRPCOptions)
		schema.TargetCapacity = given(i.TargetCapacity)
	}
	return schema, nil
}

// proxiesOff is how Serve is started where it does not run: the worker takes no
// requests, so no node's port 8000 is occupied.
const proxiesOff = "Disabled"

// others are the configs of all applications that a PUT would else delete.
// Those of serve.run are not among them: a PUT leaves them alone, and to name
// one in it would replace it.
func (i *instance) others(name string) ([]any, error) {
	var apps []any
	for _, other := range slices.Sorted(maps.Keys(i.Applications)) {
		app := i.Applications[other]
		if other == name || app.Source == "imperative" || app.Status == statusDeleting {
			continue
		}
		if err := app.keepable(other); err != nil {
			return nil, err
		}
		apps = append(apps, app.Config)
	}
	return apps, nil
}

// keepable refuses what cannot be put back as it was.
func (a *application) keepable(name string) error {
	if given(a.Config) == nil {
		return fmt.Errorf("its Serve application %q (%s) reports no config to keep, and deploying would delete it: "+
			"nothing was changed; try again once it runs, or delete it", name, a.Status)
	}
	if redacted(a.Config) {
		return fmt.Errorf("its Serve application %q is shown with its secrets redacted, and deploying would lose them: "+
			"nothing was changed; reach the dashboard without the proxy that adds a browser's headers", name)
	}
	return nil
}

// redacted reports whether Ray has put its placeholder in place of secrets.
func redacted(config json.RawMessage) bool {
	decoder := json.NewDecoder(bytes.NewReader(config))
	for {
		token, err := decoder.Token()
		if err != nil {
			return false // its end
		}
		if token == "<redacted>" {
			return true
		}
	}
}

// replicas counts those that run and those that are asked for.
func (a *application) replicas() (running, target int) {
	for _, deployment := range a.Deployments {
		target += deployment.Target
		for _, replica := range deployment.Replicas {
			if replica.State == statusRunning {
				running++
			}
		}
	}
	return running, target
}

// complete reports whether all replicas that are asked for run. Serve calls an
// application RUNNING only when none of an older version is left.
func (a *application) complete() (running int, complete bool) {
	running, target := a.replicas()
	return running, a.Status == statusRunning && target > 0 && running >= target
}

// given is a raw value, or nil where it is missing or null.
func given(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	return raw
}
