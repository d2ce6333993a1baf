// Package ray is the Ray side seen from Go: a client of a cluster's dashboard,
// through which the worker is deployed and watched.
//
// Only Ray's public REST API is used, so neither Ray's version nor its
// Python's matters here; it is tested against 2.49 and 2.60. Nothing in this
// package repeats a request: who waits for something says so (see Deploy).
package ray

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// rayScheme is Ray Client's.
const rayScheme = "ray"

// dashboardPort is where a Ray head serves its dashboard by default.
const dashboardPort = "8265"

// Cluster says where a Ray cluster is.
type Cluster struct {
	// Name is what people call it, in errors and statuses.
	Name string
	// Address is RAY_ADDRESS's form, see ParseAddress.
	Address string
	// Token is sent as `Authorization: Bearer`; empty: none.
	Token string
}

// Client speaks with one cluster's dashboard. Make it with NewClient; it is
// safe for concurrent use.
type Client struct {
	name      string
	dashboard *url.URL
	token     string
	http      *http.Client
}

// NewClient returns a client without speaking to the cluster. The error names
// what is wrong with the address or the token.
func NewClient(cluster Cluster) (*Client, error) {
	dashboard, err := ParseAddress(cluster.Address)
	if err != nil {
		return nil, err
	}
	token := strings.TrimSpace(cluster.Token)
	if strings.ContainsAny(token, "\r\n") {
		return nil, errors.New("the token has more than one line: set RAY_AUTH_TOKEN to the token alone")
	}
	return &Client{
		name: cluster.Name, dashboard: dashboard, token: token,
		http: &http.Client{Transport: transport(), CheckRedirect: noRedirect},
	}, nil
}

// Name is the cluster's name.
func (c *Client) Name() string { return c.name }

// Address is the dashboard's URL.
func (c *Client) Address() string { return c.dashboard.String() }

// Close lets go of idle connections; the client may still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ParseAddress reads RAY_ADDRESS. `ray://host:10001`, as Ray Client has it,
// means the cluster whose dashboard is `http://host:8265`; `http(s)://…` names
// the dashboard itself, with a path where a proxy wants one.
func ParseAddress(address string) (*url.URL, error) {
	parsed, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		// url.Parse's own error quotes the whole address, a password included.
		return nil, errors.New("the address is not a URL: write ray://host:10001 or http://host:8265")
	}
	if err := checkAddress(parsed); err != nil {
		return nil, err
	}
	if parsed.Scheme == rayScheme {
		return &url.URL{Scheme: "http", Host: net.JoinHostPort(parsed.Hostname(), dashboardPort)}, nil
	}
	parsed.Path = strings.TrimSuffix(parsed.Path, "/")
	return parsed, nil
}

func checkAddress(parsed *url.URL) error {
	bad := func(what string) error { return fmt.Errorf("address %q %s", parsed.Redacted(), what) }
	switch {
	case parsed.Scheme != rayScheme && parsed.Scheme != "http" && parsed.Scheme != "https":
		return bad("has no scheme that is known: write ray://host:10001 or http://host:8265")
	case parsed.Hostname() == "":
		return bad("has no host: write ray://host:10001 or http://host:8265")
	case parsed.User != nil:
		return bad("has a user in it: set RAY_AUTH_TOKEN instead")
	case parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "":
		return bad("has a query or a fragment: leave it out")
	case parsed.Scheme == rayScheme && strings.Trim(parsed.Path, "/") != "":
		return bad("has a path: write ray://host:10001, or http://… for a dashboard below a path")
	case !validPort(parsed.Port()):
		return bad("has a port that is not 1 to 65535")
	}
	return nil
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return err == nil && number > 0
}

// transport is Go's own with limits that suit one dashboard.
func transport() *http.Transport {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConns:        8,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     30 * time.Second,
	}
}

// noRedirect hands a redirect back as the reply: the token must not follow it,
// and a login page is no dashboard.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
