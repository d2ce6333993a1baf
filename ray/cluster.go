package ray

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// Version asks for Ray's version, for example `2.60.0`.
func (c *Client) Version(ctx context.Context) (string, error) {
	reply, err := read[struct {
		RayVersion string `json:"ray_version"`
	}](ctx, c, "/api/version")
	if err == nil && reply.RayVersion == "" {
		err = fmt.Errorf("cluster %q: %s reports no Ray version: is it a Ray dashboard?", c.name, c.Address())
	}
	return reply.RayVersion, err
}

// Nodes is what a cluster's living nodes have, and what of it is taken.
type Nodes struct {
	// Alive counts the nodes, the head included.
	Alive int
	// CPUs and GPUs are in Ray's logical units. What is taken is a few seconds
	// old, and 0 on a cluster whose autoscaler monitor does not run.
	CPUsUsed, CPUsTotal, GPUsUsed, GPUsTotal float64
}

// nodesReply is /nodes?view=summary, which serves both the old and the new
// autoscaler.
type nodesReply struct {
	Result  bool   `json:"result"`
	Message string `json:"msg"`
	Data    struct {
		Summary []struct {
			Raylet struct {
				NodeID         string             `json:"nodeId"` //nolint:tagliatelle // Ray's own
				State          string             `json:"state"`
				ResourcesTotal map[string]float64 `json:"resourcesTotal"` //nolint:tagliatelle // Ray's own
			} `json:"raylet"`
		} `json:"summary"`
		// By node id, lines such as `1.0/4.0 CPU`.
		Logical map[string]string `json:"nodeLogicalResources"` //nolint:tagliatelle // Ray's own
	} `json:"data"`
}

// Nodes asks for the living nodes and their resources.
func (c *Client) Nodes(ctx context.Context) (Nodes, error) {
	reply, err := read[nodesReply](ctx, c, "/nodes?view=summary")
	if err != nil {
		return Nodes{}, err
	}
	if !reply.Result {
		return Nodes{}, fmt.Errorf("cluster %q: GET /nodes: %s", c.name, reason([]byte(reply.Message)))
	}
	var nodes Nodes
	for _, node := range reply.Data.Summary {
		if node.Raylet.State == "ALIVE" {
			nodes.add(node.Raylet.ResourcesTotal, reply.Data.Logical[node.Raylet.NodeID])
		}
	}
	return nodes, nil
}

// add counts one node.
func (n *Nodes) add(total map[string]float64, logical string) {
	n.Alive++
	n.CPUsTotal += total["CPU"]
	n.GPUsTotal += total["GPU"]
	n.CPUsUsed += used(logical, "CPU")
	n.GPUsUsed += used(logical, "GPU")
}

// used finds `1.0/4.0 CPU` among the lines of a node's logical resources. Where
// placement groups hold some it reads `1.0/4.0 CPU (1.0 used of 2.0 reserved in
// placement groups)`.
func used(logical, resource string) float64 {
	for line := range strings.Lines(logical) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[1] != resource {
			continue
		}
		amount, _, _ := strings.Cut(fields[0], "/")
		number, err := strconv.ParseFloat(amount, 64)
		if err != nil || math.IsNaN(number) || math.IsInf(number, 0) {
			return 0
		}
		return number
	}
	return 0
}

// HasPackage reports whether the cluster stores a package. Asking also keeps it
// for some minutes, though nothing may use it yet.
func (c *Client) HasPackage(ctx context.Context, name string) (bool, error) {
	_, err := c.do(ctx, get(packagePath(name)))
	if hasStatus(err, http.StatusNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Upload stores a zip under its name, which runtime_envs call `gcs://<name>`.
func (c *Client) Upload(ctx context.Context, name string, data []byte) error {
	if len(data) == 0 {
		return errors.New("the package is empty")
	}
	_, err := c.do(ctx, put(packagePath(name), "application/octet-stream", data))
	return err
}

func packagePath(name string) string { return "/api/packages/gcs/" + name }
