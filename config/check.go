package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"rayexecutor/deliberation"
)

// minJournalAge is a little more than the longest timeout, a day: what was
// accepted must still be stored when it ends.
const minJournalAge = 25 * time.Hour

// validate holds every setting against its range. The error names the setting.
func (c *Config) validate() error {
	for _, err := range []error{
		c.checkHost(),
		c.checkAuth(),
		inRange("PORT", c.Port, 0, 65535),
		inRange("GRPC_PORT", c.GRPCPort, 0, 65535),
		inRange("METRICS_PORT", c.MetricsPort, 0, 65535),
		inRange("WORKER_REPLICAS", c.WorkerReplicas, 1, 1000),
		oneOf("JOURNAL_REPLICAS", c.JournalReplicas, 1, 3, 5),
		readable("NATS_CREDS", c.NATSCreds),
		readable("NATS_CA", c.NATSCA),
		c.checkLogin(),
		areURLs("NATS_URL", c.NATSURL, "nats", "tls", "ws", "wss"),
		areURLs("WORKER_NATS_URL", c.WorkerNATSURL, "nats", "tls", "ws", "wss"),
		c.checkPrefix(),
		isURL("RAY_ADDRESS", c.RayAddress, "ray", "http", "https"),
		oneOf("LOG_FORMAT", c.LogFormat, "auto", "json", "text"),
		c.checkModels(),
		c.checkJournal(),
		c.checkSink(),
	} {
		if err != nil {
			return err
		}
	}
	for _, name := range c.Functions {
		if err := oneOf("FUNCTIONS", name, Operations...); err != nil {
			return err
		}
	}
	if _, err := c.pools(); err != nil {
		return err
	}
	_, err := c.Clusters()
	return err
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$`)

func (c *Config) checkHost() error {
	if _, err := netip.ParseAddr(c.Host); err != nil && !hostName.MatchString(c.Host) {
		return fmt.Errorf("HOST=%q: must be an address such as 127.0.0.1, 0.0.0.0 or ::, or a host's name, without a port", c.Host)
	}
	return nil
}

// prefix is what every name of a stream or bucket may begin with. The worker's
// settings.py has the same.
var prefix = regexp.MustCompile(`^[A-Za-z0-9_-]{0,32}$`)

func (c *Config) checkPrefix() error {
	if !prefix.MatchString(c.NATSPrefix) {
		return fmt.Errorf("NATS_PREFIX=%q: must be at most 32 characters of A-Z a-z 0-9 _ -", c.NATSPrefix)
	}
	return nil
}

// checkAuth checks the value alone: only the function server reads AUTH_KEYS, and
// other parts may lack the file.
func (c *Config) checkAuth() error {
	if c.Auth == "" {
		return nil
	}
	return oneOf("AUTH", c.Auth, "none", "keys")
}

func (c *Config) checkModels() error {
	for _, host := range c.ModelHosts {
		if _, err := deliberation.ParseHostPattern(host); err != nil {
			return fmt.Errorf("MODEL_HOSTS: %w", err)
		}
	}
	for _, name := range c.ModelParameters {
		if err := deliberation.CheckParameter(name); err != nil {
			return fmt.Errorf("MODEL_PARAMETERS: %w", err)
		}
	}
	if c.VLLMURL == "" {
		return nil
	}
	if err := isURL("VLLM_URL", c.VLLMURL, "http", "https"); err != nil {
		return err
	}
	parsed, err := url.Parse(c.VLLMURL)
	if err != nil || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
		return errors.New("VLLM_URL must not carry a user, a password, a query or a fragment; a key is set as VLLM_API_KEY")
	}
	if err := deliberation.CheckModelPath(c.VLLMURL); err != nil {
		return fmt.Errorf("VLLM_URL %w", err)
	}
	return nil
}

func (c *Config) checkJournal() error {
	if c.JournalMaxAge < minJournalAge {
		return fmt.Errorf("JOURNAL_MAX_AGE=%s: must be 25h or more, longer than the longest timeout", c.JournalMaxAge)
	}
	if c.JournalMaxBytes < 16<<20 && c.JournalMaxBytes != -1 {
		return fmt.Errorf("JOURNAL_MAX_BYTES=%d: must be 16777216 (16 MiB) or more, or -1 for no limit", c.JournalMaxBytes)
	}
	return nil
}

// readable checks a file that a setting names; no waiting mends a missing one.
func readable(name, path string) error {
	if path == "" {
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w: name a file that can be read", name, err)
	}
	return file.Close()
}

// checkLogin checks the files of a login at NATS.
func (c *Config) checkLogin() error {
	for name, path := range map[string]string{
		"NATS_USER_FILE": c.NATSUserFile, "NATS_PASSWORD_FILE": c.NATSPasswordFile, "NATS_TOKEN_FILE": c.NATSTokenFile,
		"NATS_CERT": c.NATSCert, "NATS_KEY": c.NATSKey,
	} {
		if err := readable(name, path); err != nil {
			return err
		}
	}
	switch {
	case c.NATSCert != "" && c.NATSKey == "":
		return errors.New("NATS_KEY: must be set with NATS_CERT")
	case c.NATSCert == "" && c.NATSKey != "":
		return errors.New("NATS_CERT: must be set with NATS_KEY")
	}
	if c.JournalMaxMessages < 1000 && c.JournalMaxMessages != -1 {
		return fmt.Errorf("JOURNAL_MAX_MESSAGES=%d: must be 1000 or more, or -1 for no limit", c.JournalMaxMessages)
	}
	return nil
}

func inRange(name string, value, low, high int) error {
	if value < low || value > high {
		return fmt.Errorf("%s=%d: must be %d to %d", name, value, low, high)
	}
	return nil
}

func oneOf[T comparable](name string, value T, allowed ...T) error {
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("%s=%v: must be one of %s", name, value, strings.Trim(fmt.Sprint(allowed), "[]"))
	}
	return nil
}

// areURLs checks a comma-separated list of URLs.
func areURLs(name, value string, schemes ...string) error {
	for one := range strings.SplitSeq(value, ",") {
		if err := isURL(name, strings.TrimSpace(one), schemes...); err != nil {
			return err
		}
	}
	return nil
}

func isURL(name, value string, schemes ...string) error {
	parsed, err := url.Parse(value)
	if err != nil || parsed.Hostname() == "" || !slices.Contains(schemes, parsed.Scheme) || strings.ContainsFunc(value, unicode.IsSpace) {
		return fmt.Errorf("%s: %q must be a URL with %s and a host", name, redact(value), strings.Join(schemes, "://, ")+"://")
	}
	return nil
}

// redact removes a password from a malformed URL before it is logged.
func redact(value string) string {
	if at := strings.LastIndex(value, "@"); at >= 0 {
		return "…" + value[at:]
	}
	return value
}
