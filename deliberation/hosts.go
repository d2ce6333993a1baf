package deliberation

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// HostPattern says which hosts agents may call: `host` (any port), `host:port`, or
// `*.domain` (its subdomains, not itself; `*.domain:port` for one port). An IPv6
// address before a port is in brackets.
//
// The worker's hosts.py reads patterns and URLs in the same way, and checks each
// URL again before a call; tests/vectors/hosts.json tests both.
type HostPattern struct {
	host  string
	port  int  // 0: any
	below bool // the subdomains, not the host itself
}

// pattern is a host with or without a port; the second form is a bare IPv6 address.
var pattern = regexp.MustCompile(`^(?:((?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+))$`)

// ParseHostPattern parses a pattern; spaces around it are ignored. The error quotes
// only what follows a user and password.
func ParseHostPattern(text string) (HostPattern, error) {
	text = strings.TrimSpace(text)
	bad := fmt.Errorf("%q must be host, host:port or *.domain, without http:// or a path", text[strings.LastIndex(text, "@")+1:])
	match := pattern.FindStringSubmatch(text)
	if match == nil {
		return HostPattern{}, bad
	}
	read := HostPattern{host: match[1] + match[3]}
	if match[2] != "" {
		if read.port, _ = strconv.Atoi(match[2]); read.port < 1 || read.port > 65535 {
			return HostPattern{}, bad
		}
	}
	// Brackets, or several colons, are an IPv6 address; it must be valid.
	if bare := strings.Trim(read.host, "[]"); bare != read.host || match[3] != "" {
		if address, err := netip.ParseAddr(bare); err != nil || !address.Is6() {
			return HostPattern{}, bad
		}
		read.host = bare
	}
	read.host, read.below = strings.CutPrefix(read.host, "*.")
	read.host = canonicalHost(read.host)
	return read, nil
}

// schemePorts are the ports of URLs without one.
var schemePorts = map[string]string{"http": "80", "https": "443"}

// Covers reports whether a URL's host and port match the pattern. A URL without a
// port has that of its scheme.
func (p HostPattern) Covers(target *url.URL) bool {
	port := target.Port()
	if port == "" {
		port = schemePorts[target.Scheme]
	}
	if number, err := strconv.Atoi(port); err != nil || p.port != 0 && p.port != number {
		return false
	}
	host := canonicalHost(target.Hostname())
	if p.below {
		return len(host) > len(p.host)+1 && strings.HasSuffix(host, "."+p.host)
	}
	return host == p.host
}

// canonicalHost is the form in which hosts are compared: in lower case, without the
// dot that DNS allows at the end, an IPv6 address in its shortest form.
func canonicalHost(host string) string {
	if strings.Contains(host, ":") {
		if address, err := netip.ParseAddr(host); err == nil {
			return address.String()
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// ModelBase is the base of a model server's URL: `/v1` at its end may be there
// or not. tests/vectors/modelurls.json holds it against the worker's hosts.py.
func ModelBase(raw string) string {
	raw = strings.TrimRight(raw, "/")
	if base, ok := strings.CutSuffix(raw, "/v1"); ok && !strings.HasSuffix(base, ":/") { // http://v1 is a host
		return strings.TrimRight(base, "/")
	}
	return raw
}

// operations are what callers take for the base of a model server.
var operations = []string{"/chat/completions", "/completions", "/models", "/embeddings", "/responses"}

// CheckModelPath refuses the URL of an operation in place of the base, and
// names the base.
func CheckModelPath(raw string) error {
	trimmed := strings.TrimRight(raw, "/")
	for _, operation := range operations {
		if base, ok := strings.CutSuffix(trimmed, operation); ok {
			return fmt.Errorf("must be the server's base, %s: %s is added to it", Short(ModelBase(base)), "/v1/chat/completions")
		}
	}
	return nil
}
