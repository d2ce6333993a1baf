package config_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"rayexecutor/config"
	"rayexecutor/tests/vectors"
)

func inFlight(pools []config.Pool) map[string]int {
	named := make(map[string]int)
	for _, pool := range pools {
		named[pool.Name] = pool.InFlight
	}
	return named
}

func TestPoolVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors.Read[struct {
		Input    string
		Expected map[string]int
		Error    bool
	}](t, "pools.json") {
		settings, err := config.Parse(map[string]string{"POOLS": v.Input})
		if (err != nil) != v.Error || err == nil && !reflect.DeepEqual(inFlight(settings.Pools()), v.Expected) {
			t.Errorf("%q: %v, %v", v.Input, inFlight(settings.Pools()), err)
		}
	}
}

func TestNATSURLVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors.Read[struct {
		Input    string
		Expected []string
		Error    bool
	}](t, "natsurls.json") {
		settings, err := config.Parse(map[string]string{"NATS_URL": v.Input})
		var urls []string
		for url := range strings.SplitSeq(settings.NATSURL, ",") {
			urls = append(urls, strings.TrimSpace(url))
		}
		if (err != nil) != v.Error || err == nil && !reflect.DeepEqual(urls, v.Expected) {
			t.Errorf("%q: %q, %v", v.Input, urls, err)
		}
	}
}

// workerSettings is what the settings pass to a worker.
type workerSettings struct {
	NATSURL    string         `json:"nats_url"`
	Pools      map[string]int `json:"pools"`
	ModelHosts []string       `json:"model_hosts"`
	ModelURL   string         `json:"model_url"`
	Replicas   int            `json:"replicas"`
	Prefix     string         `json:"nats_prefix"`
}

func TestSettingVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors.Read[struct {
		Environment map[string]string
		Expected    workerSettings
		Error       string
	}](t, "settings.json") {
		settings, err := config.Parse(v.Environment)
		if v.Error != "" {
			if err == nil || !strings.HasPrefix(err.Error(), v.Error) {
				t.Errorf("%q: %v, want %s", v.Environment, err, v.Error)
			}
			continue
		}
		got := workerSettings{
			settings.WorkerNATSURL, inFlight(settings.Pools()), append([]string{}, settings.ModelHosts...),
			settings.VLLMURL, settings.WorkerReplicas, settings.NATSPrefix,
		}
		if err != nil || !reflect.DeepEqual(got, v.Expected) {
			t.Errorf("%q: %+v, %v; want %+v", v.Environment, got, err, v.Expected)
		}
	}
}

// The files are read by the journal at each connect; which of them a setting names
// is read here.
func TestLoginVectors(t *testing.T) {
	for _, v := range vectors.Read[struct {
		Environment, Files map[string]string
		Expected           map[string]string
		Error              string
	}](t, "logins.json") {
		t.Chdir(t.TempDir())
		for name, text := range v.Files {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		settings, err := config.Parse(v.Environment)
		if v.Error != "" {
			if err == nil || !strings.HasPrefix(err.Error(), v.Error) {
				t.Errorf("%q: %v, want %s", v.Environment, err, v.Error)
			}
			continue
		}
		got := map[string]string{}
		for name, value := range map[string][2]string{
			"user": {settings.NATSUser, settings.NATSUserFile}, "password": {settings.NATSPassword, settings.NATSPasswordFile},
			"token": {settings.NATSToken, settings.NATSTokenFile}, "api_key": {settings.VLLMAPIKey, settings.VLLMAPIKeyFile},
		} {
			got[name] = value[0]
			if value[1] != "" {
				text, _ := os.ReadFile(value[1])
				got[name] = strings.TrimSpace(string(text))
			}
		}
		if err != nil || !reflect.DeepEqual(got, v.Expected) {
			t.Errorf("%q: %q, %v; want %q", v.Environment, got, err, v.Expected)
		}
	}
}
