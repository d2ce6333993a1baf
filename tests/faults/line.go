package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"rayexecutor/tests/freeport"
)

// line is what some part is connected by: a proxy to each server that it
// knows. Parts know the proxies' addresses alone.
type line struct {
	proxies []*toxiproxy.Proxy
}

// newLine makes proxies to upstreams, each host:port.
func newLine(name string, upstreams ...string) (*line, error) {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &line{}
	for i, upstream := range upstreams {
		port, err := freeport.Take()
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		proxy := toxiproxy.NewProxy(server, fmt.Sprintf("%s-%d", name, i), loopback(port), upstream)
		if err := proxy.Start(); err != nil {
			return nil, errors.Join(fmt.Errorf("proxy to %s: %w", upstream, err), l.close())
		}
		l.proxies = append(l.proxies, proxy)
	}
	return l, nil
}

// addresses are where the proxies listen, each with a prefix.
func (l *line) addresses(prefix string) []string {
	addresses := make([]string, len(l.proxies))
	for i, proxy := range l.proxies {
		addresses[i] = prefix + proxy.Listen
	}
	return addresses
}

// cut closes all connections and takes no new ones.
func (l *line) cut() error {
	for _, proxy := range l.proxies {
		proxy.Stop()
	}
	return nil
}

// mend takes connections again.
func (l *line) mend() error {
	var failed []error
	for _, proxy := range l.proxies {
		failed = append(failed, proxy.Start())
	}
	return errors.Join(failed...)
}

// close ends the proxies.
func (l *line) close() error { return l.cut() }

// toxins are what toxiproxy does to a line in both directions.
type toxins struct {
	kind       string
	attributes map[string]int
}

var (
	mute   = toxins{"timeout", map[string]int{"timeout": 0}}
	reset  = toxins{"reset_peer", map[string]int{"timeout": 0}}
	far    = toxins{"latency", map[string]int{"latency": 250, "jitter": 200}}
	narrow = toxins{"bandwidth", map[string]int{"rate": 24}}
)

// afflict has toxins work on the line until cure.
func (l *line) afflict(t toxins) error {
	for _, proxy := range l.proxies {
		for _, stream := range []string{"upstream", "downstream"} {
			order, err := json.Marshal(map[string]any{
				"name": t.kind + stream, "type": t.kind, "stream": stream, "attributes": t.attributes,
			})
			if err != nil {
				return err
			}
			if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(string(order))); err != nil {
				return fmt.Errorf("%s: %s: %w", proxy.Name, t.kind, err)
			}
		}
	}
	return nil
}

// cureTime is how long a line may take to send what a toxin holds back. Each chunk
// waits for a reader; toxiproxy waits as long for one that is paused.
const cureTime = 10 * time.Second

// cure removes all toxins. It closes the connections whose readers do not take in
// time what the toxins hold back.
func (l *line) cure() error {
	var failed []error
	for _, proxy := range l.proxies {
		cured := make(chan struct{})
		go func() {
			proxy.Toxics.ResetToxics(context.Background())
			close(cured)
		}()
		select {
		case <-cured:
		case <-time.After(cureTime):
			proxy.Stop()
			<-cured
			failed = append(failed, proxy.Start())
		}
	}
	return errors.Join(failed...)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
