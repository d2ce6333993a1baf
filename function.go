package function

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"rayexecutor/auth"
	"rayexecutor/config"
	"rayexecutor/deliberation"
	"rayexecutor/functions"
	"rayexecutor/gate"
	"rayexecutor/journal"
	"rayexecutor/ray"
)

// Function serves the operations over HTTP. func calls its methods by their
// names; make it with New.
type Function struct {
	parts atomic.Pointer[parts]
}

// parts is a Function that has started.
type parts struct {
	journal   *journal.Journal
	functions *functions.Functions
	routes    http.Handler
}

// New returns a function that has not started.
func New() *Function { return &Function{} }

// Start reads the settings and connects, without waiting for NATS: what comes
// before the journal is reached is answered 503. environment is what the host
// passes; a malformed setting is an error that names it.
func (f *Function) Start(_ context.Context, environment map[string]string) error {
	environ := os.Environ()
	for name, value := range environment {
		environ = append(environ, name+"="+value)
	}
	settings, err := config.Load(environ)
	if err != nil {
		return err
	}
	return f.StartWith(settings, slog.Default())
}

// StartWith is Start for settings that have been read.
func (f *Function) StartWith(settings config.Config, log *slog.Logger) error {
	if err := gate.LimitMemory(); err != nil {
		log.Warn("memory is not limited", "reason", err)
	}
	check, err := auth.New(auth.Options{Auth: settings.Auth, Keys: settings.AuthKeys, Exposed: settings.InCluster, Origins: settings.CORSOrigins, Log: log})
	if err != nil {
		return err
	}
	rules, err := deliberation.NewRules(deliberation.Settings{
		Pools: settings.PoolNames(), ModelHosts: settings.ModelHosts,
		ModelURL: settings.VLLMURL, Model: settings.VLLMModel, Models: settings.Models, Parameters: settings.ModelParameters,
	})
	if err != nil {
		return err
	}
	clusters, err := Fleet(settings)
	if err != nil {
		return err
	}
	events, err := journal.Connect(NATS(settings, "functions", log))
	if err != nil {
		return err
	}
	clusters.Hear(events)
	served := functions.New(functions.Options{
		Journal: events, Clusters: clusters, Rules: rules, Serve: settings.Functions, Log: log, Auth: check,
	})
	prometheus.WrapRegistererWith(prometheus.Labels{"part": "functions"}, served.Metrics()).MustRegister(events.Metrics()...)
	f.parts.Store(&parts{journal: events, functions: served, routes: routes(f, served, settings)})
	return nil
}

// NATS is how a part of the system reaches the journal by the settings.
func NATS(settings config.Config, part string, log *slog.Logger) journal.Settings {
	return journal.Settings{
		URL: settings.NATSURL, Creds: settings.NATSCreds, CA: settings.NATSCA, Prefix: settings.NATSPrefix,
		Login: journal.Login{
			User:     journal.Secret{Value: settings.NATSUser, File: settings.NATSUserFile},
			Password: journal.Secret{Value: settings.NATSPassword, File: settings.NATSPasswordFile},
			Token:    journal.Secret{Value: settings.NATSToken, File: settings.NATSTokenFile},
			Cert:     settings.NATSCert, Key: settings.NATSKey,
		},
		Name: "ray-executor " + part, Log: log,
	}
}

// Fleet is the Ray clusters that the settings name, without speaking to any.
func Fleet(settings config.Config) (*ray.Fleet, error) {
	clusters, err := settings.Clusters()
	if err != nil {
		return nil, err
	}
	named := make([]ray.Cluster, len(clusters))
	for i, one := range clusters {
		named[i] = ray.Cluster{Name: one.Name, Address: one.Address, Token: one.Token}
	}
	return ray.NewFleet(named...)
}

// Metrics is the registry of /metrics, to which parts add their own; nil before
// the start.
func (f *Function) Metrics() *prometheus.Registry {
	if parts := f.parts.Load(); parts != nil {
		return parts.functions.Metrics()
	}
	return nil
}

// Drain ends the streams, whose callers come back to another instance: they
// would keep a server from stopping.
func (f *Function) Drain() {
	if parts := f.parts.Load(); parts != nil {
		parts.functions.Drain()
	}
}

// Stop closes the connections.
func (f *Function) Stop(context.Context) error {
	f.Drain()
	if parts := f.parts.Swap(nil); parts != nil {
		parts.journal.Close()
	}
	return nil
}

// Alive reports that the process works; NATS is not asked.
func (f *Function) Alive(context.Context) (bool, error) { return true, nil }

var errStarting = &deliberation.Error{
	Code: deliberation.Unavailable, Message: "the function is starting; try again in a second", RetryAfter: time.Second,
}

// Ready reports whether the settings are good and NATS and the journal have
// been reached once. A NATS that goes away later is answered 503, not by going
// unready.
func (f *Function) Ready(ctx context.Context) (bool, error) {
	parts := f.parts.Load()
	if parts == nil {
		return false, errStarting
	}
	err := parts.functions.Ready(ctx)
	return err == nil, err
}

// Handle answers a request on any route.
func (f *Function) Handle(w http.ResponseWriter, r *http.Request) {
	parts := f.parts.Load()
	if parts == nil {
		functions.WriteError(w, errStarting)
		return
	}
	parts.routes.ServeHTTP(w, r)
}

func routes(f *Function, served *functions.Functions, settings config.Config) http.Handler {
	mux := http.NewServeMux()
	served.Mount(mux)
	mux.HandleFunc("GET /health/liveness", health(f.Alive, served.IsOperator))
	mux.HandleFunc("GET /health/readiness", health(f.Ready, served.IsOperator))
	if settings.MetricsPort == 0 {
		mux.Handle("GET /metrics", served.Protect(promhttp.HandlerFor(served.Metrics(), promhttp.HandlerOpts{})))
	}
	return auth.ForBrowsers(settings.CORSOrigins, auth.ForWebhooks(settings.WebhookOrigins, mux))
}

// health answers a probe: 200 or 503. Why is for operators: it has addresses.
func health(check func(context.Context) (bool, error), operator func(*http.Request) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body := map[string]string{"status": "ok"}
		w.Header().Set("Content-Type", "application/json")
		if ok, err := check(r.Context()); !ok {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			body = map[string]string{"status": "not ready"}
			if operator(r) {
				body["reason"] = deliberation.AsError(err).Error()
			}
		}
		_ = json.NewEncoder(w).Encode(body) // a probe that went away learns nothing more
	}
}
