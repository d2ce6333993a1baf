package config_test

import (
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"rayexecutor/config"
)

func TestDefaults(t *testing.T) {
	t.Parallel()
	got, err := config.Parse(map[string]string{})
	if err != nil {
		t.Fatal(err)
	}
	const nats = "nats://nats.swe-ai-fleet.svc.cluster.local:4222"
	want := config.Config{
		Host: "localhost", BareHost: "localhost", Port: 8080, GRPCPort: 50056, GRPCDefault: true, NATSURL: nats, WorkerNATSURL: nats,
		RayAddress: "ray://ray-gpu-head-svc.ray.svc.cluster.local:10001", WorkerReplicas: 1,
		PoolList: []string{"default"}, Functions: []string{"submit", "status", "stats", "cancel", "list"}, Keeper: true,
		JournalReplicas: 1, JournalMaxAge: 168 * time.Hour, JournalMaxBytes: 8 << 30, JournalMaxMessages: 4_000_000, RelayPatience: 24 * time.Hour, LogLevel: slog.LevelInfo, LogFormat: "auto",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	creds, authority := filepath.Join(folder, "creds"), filepath.Join(folder, "ca")
	for _, path := range []string{creds, authority} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	given := map[string]string{
		"HOST": "10.0.0.1", "PORT": "1", "GRPC_PORT": "50057", "AUTH": "none", "AUTH_KEYS": creds, "CORS_ORIGINS": "https://a, https://b:1", "WEBHOOK_ORIGINS": "*", "METRICS_PORT": "9090", "NATS_URL": "nats://a:4222,tls://b:4222", "NATS_CREDS": creds, "NATS_CA": authority,
		"NATS_USER": "me", "NATS_USER_FILE": creds, "NATS_PASSWORD": "p", "NATS_PASSWORD_FILE": creds, "NATS_TOKEN": "t", "NATS_TOKEN_FILE": creds,
		"NATS_CERT": creds, "NATS_KEY": creds, "VLLM_API_KEY_FILE": creds,
		"WORKER_NATS_URL": "ws://c", "NATS_PREFIX": "TEAM-A_", "RAY_ADDRESS": "https://ray:8265", "RAY_AUTH_TOKEN": "token", "WORKER_REPLICAS": "2", "WORKER_PIP": "true",
		"POOLS": "default, gpu:7", "MODEL_HOSTS": "vllm:8000, *.models", "VLLM_URL": "http://vllm:8000/base", "MODELS": "m, qwen/*", "MODEL_PARAMETERS": "truncate_prompt_tokens, ignore_eos", "VLLM_MODEL": "m", "VLLM_API_KEY": "key",
		"FUNCTIONS": "submit, status", "KEEPER": "false", "AGENT_RESPONSES": "true",
		"K_SINK": "https://broker/ns", "K_CE_OVERRIDES": `{"extensions": {"team": "blue"}}`, "K_CA_CERTS": "PEM", "RELAY_PATIENCE": "1h",
		"JOURNAL_REPLICAS": "3", "JOURNAL_MAX_AGE": "25h", "JOURNAL_MAX_BYTES": "-1", "JOURNAL_MAX_MESSAGES": "5000000", "LOG_LEVEL": "debug", "LOG_FORMAT": "json",
	}
	got, err := config.Parse(given)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		Host: "10.0.0.1", BareHost: "10.0.0.1", Port: 1, GRPCPort: 50057, Auth: "none", AuthKeys: creds, CORSOrigins: []string{"https://a", "https://b:1"}, WebhookOrigins: []string{"*"}, MetricsPort: 9090, NATSURL: "nats://a:4222,tls://b:4222", NATSCreds: creds, NATSCA: authority,
		NATSUser: "me", NATSUserFile: creds, NATSPassword: "p", NATSPasswordFile: creds, NATSToken: "t", NATSTokenFile: creds,
		NATSCert: creds, NATSKey: creds, VLLMAPIKeyFile: creds, WorkerNATSURL: "ws://c", NATSPrefix: "TEAM-A_",
		RayAddress: "https://ray:8265", RayAuthToken: "token", WorkerReplicas: 2, WorkerPIP: true,
		PoolList: []string{"default", "gpu:7"}, ModelHosts: []string{"vllm:8000", "*.models"}, VLLMURL: "http://vllm:8000/base", VLLMModel: "m", VLLMAPIKey: "key",
		Models:          []string{"m", "qwen/*"},
		ModelParameters: []string{"truncate_prompt_tokens", "ignore_eos"},
		Functions:       []string{"submit", "status"}, JournalReplicas: 3, JournalMaxAge: 25 * time.Hour, JournalMaxBytes: -1, JournalMaxMessages: 5_000_000,
		AgentResponses: true, Sink: "https://broker/ns", SinkOverrides: `{"extensions": {"team": "blue"}}`, SinkCACerts: "PEM", RelayPatience: time.Hour,
		LogLevel: slog.LevelDebug, LogFormat: "json",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	pools := []config.Pool{{Name: "default", InFlight: 1000, Parked: 1000}, {Name: "gpu", InFlight: 7, Parked: 1000}}
	if !slices.Equal(got.Pools(), pools) || !slices.Equal(got.PoolNames(), []string{"default", "gpu"}) {
		t.Errorf("pools %v %v", got.Pools(), got.PoolNames())
	}
	if got := got.SinkExtensions(); !reflect.DeepEqual(got, map[string]string{"team": "blue"}) {
		t.Errorf("extensions %v", got)
	}
	for _, name := range config.Names() {
		if given[name] == "" && name != "RAY_CLUSTERS" { // in place of RAY_ADDRESS: clusters_test.go
			t.Errorf("%s is not in this test", name)
		}
	}
}

// What is listened on by default: the loopback, unless a proxy is in front of
// it or asks who calls.
func TestWhereItListens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		given map[string]string
		host  string
		grpc  int
	}{
		{nil, "localhost", 50056},
		{map[string]string{"K_SERVICE": "f"}, "0.0.0.0", 0},
		{map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "0.0.0.0", 50056},
		{map[string]string{"AUTH": "keys"}, "0.0.0.0", 50056},
		{map[string]string{"K_SERVICE": "f", "HOST": "::1", "GRPC_PORT": "9"}, "::1", 9},
		{map[string]string{"K_SERVICE": "", "AUTH": "", "HOST": "", "GRPC_PORT": "0"}, "localhost", 0},
	} {
		got, err := config.Parse(maps.Clone(c.given))
		if err != nil || got.Host != c.host || got.GRPCPort != c.grpc || got.GRPCDefault != (c.given["GRPC_PORT"] == "" && c.grpc != 0) {
			t.Errorf("%v: %q, %d, %t, %v", c.given, got.Host, got.GRPCPort, got.GRPCDefault, err)
		}
	}
}

func TestAMalformedSettingNamesItself(t *testing.T) {
	t.Parallel()
	for setting, says := range map[string]string{
		"AUTH=yes":                   "AUTH=yes: must be one of none keys",
		"PORT=http":                  `PORT="http": must be a whole number`,
		"PORT=-1":                    "PORT=-1: must be 0 to 65535",
		"PORT=65536":                 "0 to 65535",
		"HOST=localhost:8080":        "without a port",
		"HOST=http://localhost":      "without a port",
		"HOST=a b":                   "without a port",
		"GRPC_PORT=x":                "whole number",
		"GRPC_PORT=70000":            "0 to 65535",
		"NATS_URL=nats.svc:4222":     "nats://",
		"NATS_URL=http://a":          "nats://",
		"NATS_URL=nats://":           "a host",
		"NATS_URL=nats://a,":         "a host",
		"NATS_CREDS=/nowhere":        "open /nowhere: no such file",
		"NATS_CA=nowhere":            "name a file that can be read",
		"WORKER_NATS_URL=a":          "nats://",
		"RAY_ADDRESS=auto":           "ray://, http://, https://",
		"RAY_ADDRESS=ray://":         "a host",
		"WORKER_REPLICAS=0":          "1 to 1000",
		"WORKER_REPLICAS=many":       "whole number",
		"WORKER_PIP=yes":             "true or false",
		"POOLS=A":                    "1 to 32 characters",
		"POOLS=a,a":                  "twice",
		"POOLS=a,,b":                 "1 to 32 characters",
		"POOLS=a:0":                  "1 to 100000",
		"POOLS=a:100001":             "1 to 100000",
		"POOLS=a:":                   "1 to 100000",
		"MODEL_HOSTS=http://vllm":    "without http://",
		"MODEL_HOSTS=vllm/v1":        "host:port",
		"MODEL_HOSTS=*":              "*.domain",
		"MODEL_HOSTS=a.*.b":          "*.domain",
		"MODEL_HOSTS=a,,b":           "host",
		"VLLM_URL=vllm:8000":         "http://, https://",
		"VLLM_URL=http://u:p@vllm":   "VLLM_API_KEY",
		"VLLM_URL=http://vllm?x=1":   "query",
		"FUNCTIONS=submit,launch":    "launch: must be one of submit status stats cancel list",
		"FUNCTIONS=submit,":          "must be one of",
		"KEEPER=maybe":               "true or false",
		"JOURNAL_REPLICAS=2":         "must be one of 1 3 5",
		"JOURNAL_MAX_AGE=7d":         "a duration such as 168h",
		"JOURNAL_MAX_AGE=24h":        "25h or more",
		"JOURNAL_MAX_BYTES=8Gi":      "whole number",
		"JOURNAL_MAX_BYTES=16777215": "16777216",
		"JOURNAL_MAX_MESSAGES=999":   "1000",
		"JOURNAL_MAX_BYTES=-2":       "-1 for no limit",
		"LOG_LEVEL=loud":             "DEBUG, INFO, WARN or ERROR",
		"LOG_FORMAT=xml":             "auto json text",
		"RAY_CLUSTERS=/nowhere":      "RAY_CLUSTERS: open /nowhere",
		"NATS_PREFIX=TEAM.A":         "A-Z a-z 0-9 _ -",
		"AGENT_RESPONSES=1x":         "true or false",
		"K_SINK=broker":              "http://, https://",
		"K_CE_OVERRIDES=x":           `{"extensions": {"name": "value"}}`,
		"RELAY_PATIENCE=1s":          "1m or more",
		"RELAY_PATIENCE=168h":        "less than JOURNAL_MAX_AGE",

		`K_CE_OVERRIDES={"extensions":{"A":"x"}}`:    "cannot be an extension",
		`K_CE_OVERRIDES={"extensions":{"type":"x"}}`: "cannot be an extension",
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			name, value, _ := strings.Cut(setting, "=")
			_, err := config.Parse(map[string]string{name: value})
			if err == nil || !strings.HasPrefix(err.Error(), name) || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want %s … %s", err, name, says)
			}
		})
	}
}

func TestWhatIsNotSet(t *testing.T) {
	t.Parallel()
	for _, name := range config.Names() {
		if _, err := config.Parse(map[string]string{name: ""}); err != nil {
			t.Errorf("an empty value is the default: %v", err)
		}
	}
	if _, err := config.Parse(map[string]string{"AGENT_RESPONSES": "false", "KUBERNETES_PORT": "tcp://10.0.0.1"}); err != nil {
		t.Error(err)
	}
	all, err := config.Parse(map[string]string{"FUNCTIONS": "all"})
	if err != nil || !slices.Equal(all.Functions, config.Operations) {
		t.Errorf("all are %v, %v", all.Functions, err)
	}
}

func TestModelHostsFollowTheModel(t *testing.T) {
	t.Parallel()
	for given, want := range map[string][]string{
		"http://vllm:8000/base": {"vllm:8000"}, "https://vllm": {"vllm"}, "http://[::1]:8000": {"[::1]:8000"}, "": nil,
	} {
		got, err := config.Parse(map[string]string{"VLLM_URL": given})
		if err != nil || !slices.Equal(got.ModelHosts, want) {
			t.Errorf("%q: %v, %v", given, got.ModelHosts, err)
		}
	}
	for _, host := range []string{"::1", "[::1]:80", "10.0.0.1:8000", "a_b", "*.x:80", "vllm."} {
		if _, err := config.Parse(map[string]string{"MODEL_HOSTS": host}); err != nil {
			t.Error(err)
		}
	}
}

func TestNoSecretInAnError(t *testing.T) {
	t.Parallel()
	for _, given := range []map[string]string{
		{"NATS_URL": "nats//user:hunter2@nats"},
		{"NATS_URL": "nats://user:hunter2@"},
		{"NATS_URL": "nats://user:%hunter2@nats"},
		{"VLLM_URL": "http://user:hunter2@vllm"},
		{"MODEL_HOSTS": "http://user:hunter2@vllm"},
		{"RAY_ADDRESS": "ray//hunter2@ray", "RAY_AUTH_TOKEN": "hunter2"},
	} {
		_, err := config.Parse(given)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

// inFolder runs a test in a folder whose ray-executor.env holds text.
func inFolder(t *testing.T, text string) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile(config.File, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileStandsWhereTheEnvironmentIsSilent(t *testing.T) {
	inFolder(t, "# ours\nPORT=9000\nexport VLLM_MODEL='a b # c'\nVLLM_API_KEY=key\nPOOLS=default,gpu\nAGENT_RESPONSES=false\nLOG_FORMAT=\n")
	got, err := config.Load([]string{"PORT=9001", "POOLS=", "HOME=/root"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Port != 9001 || got.VLLMModel != "a b # c" || got.VLLMAPIKey != "key" || len(got.Pools()) != 2 || got.LogFormat != "auto" {
		t.Errorf("got %+v", got)
	}
}

// Editors on Windows save a file with a byte order mark, and with CR before LF.
func TestAFileWithAByteOrderMark(t *testing.T) {
	inFolder(t, "\uFEFFPORT=9000\r\nRAY_CLUSTERS=clusters.yaml\r\n")
	if err := os.WriteFile("clusters.yaml", []byte("\uFEFFclusters: [{name: a, address: ray://a:1}]\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(nil)
	if err != nil || got.Port != 9000 {
		t.Fatalf("PORT is %d, %v", got.Port, err)
	}
	if clusters, err := got.Clusters(); err != nil || len(clusters) != 1 {
		t.Errorf("clusters are %+v, %v", clusters, err)
	}
}

// A relative path, of the environment or of the file, is one of the working
// directory, and stays it.
func TestPathsAreAbsolute(t *testing.T) {
	inFolder(t, "NATS_CREDS=creds\nRAY_CLUSTERS=clusters.yaml\n")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"creds": "", "ca": "", "clusters.yaml": "clusters: [{name: a, address: ray://a:1}]"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := config.Load([]string{"NATS_CA=./ca"})
	if err != nil {
		t.Fatal(err)
	}
	for want, path := range map[string]string{"creds": got.NATSCreds, "ca": got.NATSCA, "clusters.yaml": got.RayClusters} {
		if path != filepath.Join(here, want) {
			t.Errorf("%s is %s", want, path)
		}
	}
}

func TestAnUnknownNameInTheFileIsRefused(t *testing.T) {
	inFolder(t, "PROT=9000\n")
	_, err := config.Load(nil)
	if err == nil || !strings.Contains(err.Error(), "ray-executor.env: PROT is not a setting; the settings are PORT, ") {
		t.Errorf("got %v", err)
	}
	if _, err := config.Load([]string{"PROT=1"}); err == nil {
		t.Error("an unknown name in the file is accepted if the environment has it too")
	}
}

func TestAFileThatIsNoneKeepsItsSecrets(t *testing.T) {
	for _, text := range []string{"RAY_AUTH_TOKEN=a\nnonsense hunter2\n", "NATS_URL='hunter2\n"} {
		inFolder(t, text)
		_, err := config.Load(nil)
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "NAME=value") {
			t.Errorf("got %v", err)
		}
	}
}

func TestAFileThatCannotBeRead(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := config.Load(nil); err != nil {
		t.Errorf("no file is fine: %v", err)
	}
	if err := os.Mkdir(config.File, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(nil); err == nil || !strings.Contains(err.Error(), config.File) {
		t.Errorf("got %v", err)
	}
}
