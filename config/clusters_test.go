package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"rayexecutor/config"
)

func clustersIn(t *testing.T, text string) ([]config.Cluster, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clusters.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, err := config.Parse(map[string]string{"RAY_CLUSTERS": path, "POOLS": "default,large:5"})
	if err != nil {
		return nil, err
	}
	return settings.Clusters()
}

func TestClusters(t *testing.T) {
	t.Parallel()
	got, err := clustersIn(t, `
clusters:
  - {name: east, address: "ray://east:10001", token: secret, pools: [large]}
  - {name: west, address: "https://west"}
`)
	large := config.Pool{Name: "large", InFlight: 5, Parked: 1000}
	want := []config.Cluster{
		{Name: "east", Address: "ray://east:10001", Token: "secret", Pools: []config.Pool{large}},
		{Name: "west", Address: "https://west", Pools: []config.Pool{{Name: "default", InFlight: 1000, Parked: 1000}, large}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, got %+v, want %+v", err, got, want)
	}
}

func TestPoolsEverywhere(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "clusters.yaml")
	text := "clusters: [{name: a, address: ray://a:1}, {name: b, address: ray://b:1, pools: [large]}]"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]config.Pool{
		file:      {{Name: "default", InFlight: 1000, Parked: 1000}, {Name: "large", InFlight: 10, Parked: 2000}, {Name: "idle", InFlight: 7, Parked: 1000}, {Name: "tiny", InFlight: 2}},
		"":        {{Name: "default", InFlight: 1000, Parked: 1000}, {Name: "large", InFlight: 5, Parked: 1000}, {Name: "idle", InFlight: 7, Parked: 1000}, {Name: "tiny", InFlight: 2}},
		"nowhere": {{Name: "default", InFlight: 1000, Parked: 1000}, {Name: "large", InFlight: 5, Parked: 1000}, {Name: "idle", InFlight: 7, Parked: 1000}, {Name: "tiny", InFlight: 2}},
	} {
		settings := config.Config{PoolList: []string{"default", "large:5", "idle:7", "tiny:2"}, RayClusters: name, WorkerReplicas: 3}
		if got := settings.PoolsEverywhere(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestOneClusterWithoutAFile(t *testing.T) {
	t.Parallel()
	settings, err := config.Parse(map[string]string{"RAY_ADDRESS": "ray://head:10001", "RAY_AUTH_TOKEN": "t"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := settings.Clusters()
	want := []config.Cluster{{Name: "default", Address: "ray://head:10001", Token: "t", Pools: settings.Pools()}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, got %+v", err, got)
	}
}

func TestMalformedClusters(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"":                           "must hold `clusters`",
		"clusters: []":               "must hold `clusters`",
		"clusters: [{nam: a}]":       "must hold `clusters`",
		"clusters: [{token: [s3cret": "must hold `clusters`",
		"clusters: [{name: a}]":      "clusters[0]: address",
		"clusters: [{name: 'a b', address: ray://a:1}]":                                   "name",
		"clusters: [{name: a, address: ray://a:1}, {name: a, address: ray://b:1}]":        "twice",
		"clusters: [{name: a, address: ray://a:1, pools: [default, nowhere]}]":            `clusters[0].pools: "nowhere" is not declared`,
		"clusters: [{name: a, address: ray://a:1, pools: [default], token: x, extra: 1}]": "must hold `clusters`",
	} {
		if _, err := clustersIn(t, text); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, which lacks %q", text, err, says)
		}
	}
}
