package local

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// arguments are those of `ray start`. Left out is what costs a start time and
// serves nobody here: the log monitor. The autoscaler's monitor stays: it
// reports the CPUs in use.
func (r *Ray) arguments(options Options) []string {
	store := options.ObjectStore
	if store == 0 {
		store = defaultObjectStore
	}
	arguments := []string{
		"start", "--block", "--disable-usage-stats", "--include-log-monitor=false",
		"--node-ip-address=" + r.ip, "--object-store-memory=" + strconv.Itoa(store),
	}
	if r.head == nil {
		arguments = append(arguments, "--head", "--dashboard-host=127.0.0.1", "--temp-dir="+r.dir.files())
		arguments = append(arguments, r.ports.ofHead()...)
	} else {
		arguments = append(arguments, "--address="+net.JoinHostPort(r.head.ip, strconv.Itoa(r.head.ports.gcs)))
	}
	if options.NumCPUs != 0 {
		arguments = append(arguments, "--num-cpus="+strconv.Itoa(max(0, options.NumCPUs)))
	}
	return append(arguments, r.ports.arguments()...)
}

// environment is this process's own, without what speaks of another Ray or
// another Python.
func (r *Ray) environment(venv string, options Options) []string {
	environment := slices.DeleteFunc(os.Environ(), foreign)
	if options.IP == "" {
		// Ray's word for "one node, on the loopback": else it takes 127.0.0.1
		// for the machine's outer address and listens on all of them.
		environment = append(environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0")
	}
	environment = append(environment,
		"RAY_USAGE_STATS_CONFIG_PATH="+filepath.Join(r.dir.path, "usage.json"), // not ~/.ray/config.json
		"VIRTUAL_ENV="+venv,
		"PATH="+filepath.Join(venv, "bin")+string(os.PathListSeparator)+os.Getenv("PATH"),
	)
	environment = append(environment, r.pastProxies()...)
	environment = append(environment, options.Env...)
	// Last, so that nothing replaces them. A token in the environment also keeps
	// Ray from reading and writing ~/.ray/auth_token. Ray 2.49 knows no tokens.
	return append(environment, "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN="+r.token)
}

// foreign reports variables that must not reach our Ray.
func foreign(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return strings.HasPrefix(name, "RAY_") || strings.HasPrefix(name, "PYTHON") ||
		name == "VIRTUAL_ENV" || name == "PATH" || strings.EqualFold(name, "no_proxy")
}

// pastProxies names Ray's own addresses as such that no proxy is asked for.
func (r *Ray) pastProxies() []string {
	hosts := []string{"localhost", "127.0.0.1", "::1", r.ip}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		if value := os.Getenv(name); value != "" {
			hosts = append(hosts, value)
		}
	}
	list := strings.Join(hosts, ",")
	return []string{"NO_PROXY=" + list, "no_proxy=" + list}
}
