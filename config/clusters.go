package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Cluster is a Ray cluster, and the pools that its workers pull from.
type Cluster struct {
	Name string
	// Address is ray://host:10001, or the dashboard's URL.
	Address string
	// Token is sent to the dashboard; empty for none.
	Token string
	Pools []Pool
}

// PoolsEverywhere returns the declared pools with what is in flight of each in
// all clusters that serve it: POOLS speaks of one. Where the clusters' file
// cannot be read here, it counts one.
func (c *Config) PoolsEverywhere() []Pool {
	clusters, _ := c.Clusters() // deploying the worker reports what is wrong
	pools := c.Pools()
	for i := range pools {
		serving := 0
		for _, cluster := range clusters {
			if slices.Contains(cluster.Pools, pools[i]) {
				serving++
			}
		}
		pools[i].InFlight *= max(1, serving)
		pools[i].Parked *= max(1, serving)
	}
	return pools
}

// clusterFile is what RAY_CLUSTERS names.
type clusterFile struct {
	Clusters []struct {
		Name    string   `yaml:"name"`
		Address string   `yaml:"address"`
		Token   string   `yaml:"token"`
		Pools   []string `yaml:"pools"`
	} `yaml:"clusters"`
}

var clusterName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// Clusters returns the clusters of the file that RAY_CLUSTERS names, else the
// one of RAY_ADDRESS, which is called `default`. A cluster that names no pools
// pulls from all.
func (c *Config) Clusters() ([]Cluster, error) {
	if c.RayClusters == "" {
		return []Cluster{{Name: "default", Address: c.RayAddress, Token: c.RayAuthToken, Pools: c.Pools()}}, nil
	}
	file, err := readClusters(c.RayClusters)
	if err != nil {
		return nil, fmt.Errorf("RAY_CLUSTERS: %w", err)
	}
	var clusters []Cluster
	for i, entry := range file.Clusters {
		cluster := Cluster{Name: entry.Name, Address: entry.Address, Token: entry.Token}
		if err := c.checkCluster(cluster, clusters); err != nil {
			return nil, fmt.Errorf("RAY_CLUSTERS: clusters[%d]: %w", i, err)
		}
		if cluster.Pools, err = c.poolsNamed(entry.Pools); err != nil {
			return nil, fmt.Errorf("RAY_CLUSTERS: clusters[%d].pools: %w", i, err)
		}
		clusters = append(clusters, cluster)
	}
	return clusters, nil
}

// errNoClusters replaces the parser's errors too: they quote the file, which holds
// tokens.
var errNoClusters = errors.New("must hold `clusters`, a list in YAML or JSON whose entries have name, address, token and pools")

func readClusters(path string) (clusterFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return clusterFile{}, err
	}
	var file clusterFile
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) || len(file.Clusters) == 0 {
		return clusterFile{}, fmt.Errorf("%s %w", path, errNoClusters)
	}
	return file, nil
}

func (c *Config) checkCluster(cluster Cluster, before []Cluster) error {
	if !clusterName.MatchString(cluster.Name) {
		return fmt.Errorf("name %q must be 1 to 64 characters of A-Z a-z 0-9 or . _ -", cluster.Name)
	}
	if slices.ContainsFunc(before, func(other Cluster) bool { return other.Name == cluster.Name }) {
		return fmt.Errorf("name %q is listed twice", cluster.Name)
	}
	return isURL("address", cluster.Address, "ray", "http", "https")
}

// poolsNamed returns declared pools by their names; all where none is named.
func (c *Config) poolsNamed(names []string) ([]Pool, error) {
	if len(names) == 0 {
		return c.Pools(), nil
	}
	var pools []Pool
	for _, name := range names {
		at := slices.IndexFunc(c.Pools(), func(pool Pool) bool { return pool.Name == name })
		if at < 0 {
			return nil, fmt.Errorf("%q is not declared; POOLS declares %s", name, strings.Join(c.PoolNames(), ", "))
		}
		pools = append(pools, c.Pools()[at])
	}
	return pools, nil
}
