// Package config is the one place where settings are read: the environment
// first, then a file for hosts that pass none, then defaults. Every value is
// checked before anything starts.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/joho/godotenv"
)

// File is where settings are read from when the environment has none of them,
// in the working directory.
const File = "ray-executor.env"

// Config is all that an operator can set. docs/settings.md lists the names.
type Config struct {
	Port int `env:"PORT" envDefault:"8080"`
	// GRPCPort is 0 where gRPC has no port of its own. GRPCDefault says that
	// nobody set it: where it is taken, one goes without.
	GRPCPort    int `env:"GRPC_PORT"`
	GRPCDefault bool
	// Host is an address, or Loopback: 127.0.0.1, and ::1 where there is IPv6.
	Host string `env:"HOST"`
	// BareHost is that of ports which ask for no credentials: AUTH does not open them.
	BareHost string
	// Auth says who may call, AuthKeys is the file of API keys. Only the function
	// server reads them.
	Auth     string `env:"AUTH"`
	AuthKeys string `env:"AUTH_KEYS"`
	// CORSOrigins are the origins whose pages may call, WebhookOrigins the senders
	// whose handshake is accepted.
	CORSOrigins    []string `env:"CORS_ORIGINS"`
	WebhookOrigins []string `env:"WEBHOOK_ORIGINS"`
	// MetricsPort has /metrics in place of Port; 0: Port has it.
	MetricsPort int `env:"METRICS_PORT"`
	// InCluster says that Kubernetes started this process.
	InCluster bool

	NATSURL   string `env:"NATS_URL" envDefault:"nats://nats.swe-ai-fleet.svc.cluster.local:4222"`
	NATSCreds string `env:"NATS_CREDS"`
	NATSCA    string `env:"NATS_CA"`
	// The login at NATS, as the Ray worker reads it: each value, or the file that
	// it is in, which is read at each connect. A user in NATS_URL comes first.
	NATSUser         string `env:"NATS_USER"`
	NATSUserFile     string `env:"NATS_USER_FILE"`
	NATSPassword     string `env:"NATS_PASSWORD"`
	NATSPasswordFile string `env:"NATS_PASSWORD_FILE"`
	NATSToken        string `env:"NATS_TOKEN"`
	NATSTokenFile    string `env:"NATS_TOKEN_FILE"`
	// NATSCert and NATSKey are the files of a client's certificate.
	NATSCert      string `env:"NATS_CERT"`
	NATSKey       string `env:"NATS_KEY"`
	WorkerNATSURL string `env:"WORKER_NATS_URL"`
	NATSPrefix    string `env:"NATS_PREFIX"`

	RayAddress     string `env:"RAY_ADDRESS" envDefault:"ray://ray-gpu-head-svc.ray.svc.cluster.local:10001"`
	RayAuthToken   string `env:"RAY_AUTH_TOKEN"`
	RayClusters    string `env:"RAY_CLUSTERS"`
	WorkerReplicas int    `env:"WORKER_REPLICAS" envDefault:"1"`
	WorkerPIP      bool   `env:"WORKER_PIP"`

	// PoolList is POOLS as it is set; Pools returns it parsed.
	PoolList   []string `env:"POOLS" envDefault:"default"`
	ModelHosts []string `env:"MODEL_HOSTS"`
	VLLMURL    string   `env:"VLLM_URL"`
	VLLMModel  string   `env:"VLLM_MODEL"`
	// Models are patterns of the models that callers may name.
	Models []string `env:"MODELS"`
	// ModelParameters are the keys that a request's sampling.extra may hold.
	ModelParameters []string `env:"MODEL_PARAMETERS"`
	// VLLMAPIKey is for the cluster: `dev` passes it on to the Ray that it
	// starts, nobody else reads it here.
	VLLMAPIKey     string `env:"VLLM_API_KEY"`
	VLLMAPIKeyFile string `env:"VLLM_API_KEY_FILE"`

	Functions []string `env:"FUNCTIONS" envDefault:"all"`
	Keeper    bool     `env:"KEEPER" envDefault:"true"`

	AgentResponses bool `env:"AGENT_RESPONSES"`
	// Knative's SinkBinding sets the first three. SinkExtensions tells
	// K_CE_OVERRIDES taken apart.
	Sink          string        `env:"K_SINK"`
	SinkOverrides string        `env:"K_CE_OVERRIDES"`
	SinkCACerts   string        `env:"K_CA_CERTS"`
	RelayPatience time.Duration `env:"RELAY_PATIENCE" envDefault:"24h"`

	JournalReplicas int           `env:"JOURNAL_REPLICAS" envDefault:"1"`
	JournalMaxAge   time.Duration `env:"JOURNAL_MAX_AGE" envDefault:"168h"`
	JournalMaxBytes int64         `env:"JOURNAL_MAX_BYTES" envDefault:"8589934592"`
	// JournalMaxMessages bounds the server's memory, at 230 bytes a message.
	JournalMaxMessages int64 `env:"JOURNAL_MAX_MESSAGES" envDefault:"4000000"`

	LogLevel  slog.Level `env:"LOG_LEVEL" envDefault:"INFO"`
	LogFormat string     `env:"LOG_FORMAT" envDefault:"auto"`
}

const (
	// Loopback is the Host that only this machine reaches.
	Loopback = "localhost"
	// everywhere is every interface, of IPv6 too where there is one.
	everywhere = "0.0.0.0"
	// grpcPort is where clients of the Python service look.
	grpcPort = 50056
)

// DefaultInFlight is how many agents of a pool are in flight at once in a
// cluster where POOLS does not say.
const DefaultInFlight = 1000

var poolName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// Operations are the values that FUNCTIONS may hold, besides all.
var Operations = []string{"submit", "status", "stats", "cancel", "list"}

// Load reads the settings from an environment (os.Environ's form) and, for
// what is not there, from File where it exists. The error names the setting.
func Load(environ []string) (Config, error) {
	settings, err := Given(environ)
	if err != nil {
		return Config{}, err
	}
	return Parse(settings)
}

// Given returns what an environment and File set, by name: `dev` starts what
// is not in it.
func Given(environ []string) (map[string]string, error) {
	settings := env.ToMap(environ)
	trim(settings)
	file, err := readFile(File)
	if err != nil {
		return nil, err
	}
	for name, value := range file {
		if settings[name] == "" {
			settings[name] = value
		}
	}
	return settings, nil
}

// Parse reads settings by name; a missing one has its default.
func Parse(settings map[string]string) (Config, error) {
	trim(settings)
	var config Config
	if err := env.ParseWithOptions(&config, env.Options{Environment: settings}); err != nil {
		return Config{}, named(err, settings)
	}
	config.fill(settings)
	if err := config.absolute(); err != nil {
		return Config{}, err
	}
	if err := config.validate(); err != nil {
		return Config{}, err
	}
	return config, nil
}

// trim takes off the spaces around values, in the environment as in File. An empty
// value is no value: manifests often carry such.
func trim(settings map[string]string) {
	for name, value := range settings {
		settings[name] = strings.TrimSpace(value)
	}
	maps.DeleteFunc(settings, func(_, value string) bool { return value == "" })
}

// named says a parse error with the setting's name in place of the field's.
func named(err error, settings map[string]string) error {
	var parse env.ParseError
	if aggregate, ok := errors.AsType[env.AggregateError](err); ok && len(aggregate.Errors) > 0 {
		err = aggregate.Errors[0]
	}
	if !errors.As(err, &parse) {
		return fmt.Errorf("read the settings: %w", err)
	}
	for _, field := range fields() {
		if name := field.Tag.Get("env"); field.Name == parse.Name {
			return fmt.Errorf("%s=%q: must be %s", name, settings[name], kinds[parse.Type.String()])
		}
	}
	return fmt.Errorf("read the settings: %w", err)
}

// kinds says what a value of a Go type looks like.
var kinds = map[string]string{
	"int": "a whole number", "int64": "a whole number", "bool": "true or false",
	"time.Duration": "a duration such as 168h", "slog.Level": "DEBUG, INFO, WARN or ERROR",
}

// errMalformed replaces the parser's errors: they quote the file, which holds
// passwords.
var errMalformed = errors.New("must hold lines of NAME=value; a value with spaces, # or $ needs single quotes")

// byteOrderMark is what some editors on Windows write before a text in UTF-8. It
// does not belong to the first name.
const byteOrderMark = "\uFEFF"

func readFile(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	settings, err := godotenv.UnmarshalBytes(bytes.TrimPrefix(text, []byte(byteOrderMark)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errMalformed)
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("%s: %s is not a setting; the settings are %s", path, name, strings.Join(Names(), ", "))
		}
	}
	return settings, nil
}

// fill puts in the defaults that follow from other settings, and from what
// Kubernetes and Knative set.
func (c *Config) fill(settings map[string]string) {
	knative := settings["K_SERVICE"] != ""
	c.InCluster = knative || settings["KUBERNETES_SERVICE_HOST"] != ""
	unlessSet := func(open bool) string {
		if c.Host == "" && open {
			return everywhere
		}
		return cmp.Or(c.Host, Loopback)
	}
	c.BareHost, c.Host = unlessSet(c.InCluster), unlessSet(c.InCluster || c.Auth != "")
	if settings["GRPC_PORT"] == "" && !knative {
		c.GRPCPort, c.GRPCDefault = grpcPort, true
	}
	for _, list := range [][]string{c.PoolList, c.ModelHosts, c.Models, c.ModelParameters, c.Functions, c.CORSOrigins, c.WebhookOrigins} {
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
	}
	if slices.Equal(c.Functions, []string{"all"}) {
		c.Functions = slices.Clone(Operations)
	}
	if c.WorkerNATSURL == "" {
		c.WorkerNATSURL = c.NATSURL
	}
	if len(c.ModelHosts) == 0 && c.VLLMURL != "" {
		if parsed, err := url.Parse(c.VLLMURL); err == nil && parsed.Host != "" {
			c.ModelHosts = []string{parsed.Host}
		}
	}
}

// absolute makes the paths independent of the working directory: Ray's
// processes run elsewhere.
func (c *Config) absolute() error {
	for _, path := range []*string{
		&c.AuthKeys, &c.NATSCreds, &c.NATSCA, &c.NATSCert, &c.NATSKey, &c.RayClusters,
		&c.NATSUserFile, &c.NATSPasswordFile, &c.NATSTokenFile, &c.VLLMAPIKeyFile,
	} {
		if *path == "" {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("read the settings: %w", err)
		}
		*path = absolute
	}
	return nil
}

// Pool is a declared queue.
type Pool struct {
	Name string
	// InFlight is how many of its agents are in flight at once in a cluster.
	InFlight int
	// Parked is how many of its agents may wait for model servers besides. It is 0
	// if there are more replicas than slots: each replica has at least one slot, so
	// only the journal's consumer limits such a pool.
	Parked int
}

// Pools returns the declared pools, in the order of POOLS.
func (c *Config) Pools() []Pool {
	pools, _ := c.pools() // validate has seen it
	return pools
}

func (c *Config) pools() ([]Pool, error) {
	pools := make([]Pool, 0, len(c.PoolList))
	for _, entry := range c.PoolList {
		name, inFlight, limited := strings.Cut(entry, ":")
		pool := Pool{Name: name, InFlight: DefaultInFlight}
		if !poolName.MatchString(name) {
			return nil, fmt.Errorf("POOLS: %q must be 1 to 32 characters of a-z 0-9 -", name)
		}
		if slices.ContainsFunc(pools, func(p Pool) bool { return p.Name == name }) {
			return nil, fmt.Errorf("POOLS: %q is listed twice", name)
		}
		if limited {
			n, err := strconv.ParseUint(inFlight, 10, 32) // no sign, as the worker reads it
			if err != nil || n < 1 || n > 100_000 {
				return nil, fmt.Errorf("POOLS: %q: what a pool has in flight must be 1 to 100000", entry)
			}
			pool.InFlight = int(n)
		}
		if pool.InFlight >= c.WorkerReplicas {
			pool.Parked = max(pool.InFlight, DefaultInFlight) // settings.py has the same
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

// PoolNames returns the declared pools' names.
func (c *Config) PoolNames() []string {
	var names []string
	for _, pool := range c.Pools() {
		names = append(names, pool.Name)
	}
	return names
}

// Names lists every setting, in the order of Config.
func Names() []string {
	var names []string
	for _, field := range fields() {
		if name := field.Tag.Get("env"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

func fields() []reflect.StructField { return reflect.VisibleFields(reflect.TypeFor[Config]()) }
