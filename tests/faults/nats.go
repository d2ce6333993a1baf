package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/journal"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

const servers = 3

// natsCluster is three nats-servers. Each reaches the others by a line of its
// own, and everyone else reaches them by theirs.
type natsCluster struct {
	parts [servers]*part
	ports [servers]int
	// monitors are where each tells of itself.
	monitors [servers]int
	routes   [servers]*line
	conn     *nats.Conn
	js       jetstream.JetStream
}

func startNATS(ctx context.Context, dir string) (*natsCluster, error) {
	c := &natsCluster{}
	var members [servers]int
	for i := range servers {
		var err1, err2, err3 error
		c.ports[i], err1 = freeport.Take()
		c.monitors[i], err2 = freeport.Take()
		members[i], err3 = freeport.Take()
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, err
		}
	}
	for i := range servers {
		if err := c.startMember(i, members, dir); err != nil {
			return c, err
		}
	}
	// The harness looks at NATS as no part of the system: past all lines.
	var err error
	c.conn, err = nats.Connect(c.urls(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(100*time.Millisecond), nats.IgnoreDiscoveredServers())
	if err != nil {
		return c, err
	}
	if c.js, err = jetstream.New(c.conn); err != nil {
		return c, err
	}
	return c, until(ctx, "JetStream answers", func(ctx context.Context) error {
		_, err := c.js.AccountInfo(ctx)
		return err
	})
}

func (c *natsCluster) startMember(i int, members [servers]int, dir string) error {
	var others []string
	for j, port := range members {
		if j != i {
			others = append(others, loopback(port))
		}
	}
	var err error
	if c.routes[i], err = newLine(fmt.Sprintf("route-%d", i), others...); err != nil {
		return err
	}
	// Nobody is told of addresses that no line leads to.
	config := fmt.Sprintf(`server_name: n%d
listen: "%s"
http: "%s"
jetstream { store_dir: %q, max_file_store: 16G }
cluster { name: faults, listen: "%s", no_advertise: true, advertise: "127.0.0.1:1", routes: ["%s"] }
`, i, loopback(c.ports[i]), loopback(c.monitors[i]), filepath.Join(dir, fmt.Sprintf("nats-%d", i)), loopback(members[i]),
		strings.Join(c.routes[i].addresses("nats://"), `", "`))
	path := filepath.Join(dir, fmt.Sprintf("nats-%d.conf", i))
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	c.parts[i] = &part{
		log: filepath.Join(dir, fmt.Sprintf("nats-%d.log", i)), environ: os.Environ(),
		command: []string{filepath.Join(system.Root(), ".tools", "nats-server"), "-c", path},
	}
	return c.parts[i].start()
}

func (c *natsCluster) urls() string {
	var urls []string
	for _, port := range c.ports {
		urls = append(urls, "nats://"+loopback(port))
	}
	return strings.Join(urls, ",")
}

// addresses are the servers' own, for lines to lead to.
func (c *natsCluster) addresses() []string {
	var addresses []string
	for _, port := range c.ports {
		addresses = append(addresses, loopback(port))
	}
	return addresses
}

// split cuts a server off from the others, silently.
func (c *natsCluster) split(i int) error {
	failed := []error{c.routes[i].afflict(mute)}
	for j := range servers {
		if j != i {
			failed = append(failed, c.toward(j, i).afflict(mute))
		}
	}
	return errors.Join(failed...)
}

func (c *natsCluster) join(i int) error {
	failed := []error{c.routes[i].cure()}
	for j := range servers {
		if j != i {
			failed = append(failed, c.toward(j, i).cure())
		}
	}
	return errors.Join(failed...)
}

// toward is the part of a server's line that leads to another.
func (c *natsCluster) toward(from, to int) *line {
	if to > from {
		to-- // a line leads to the others alone
	}
	return &line{proxies: c.routes[from].proxies[to : to+1]}
}

// leader is which server leads the journal; any where nobody knows.
func (c *natsCluster) leader(ctx context.Context) int {
	info, err := c.info(ctx)
	if err != nil || info.Cluster == nil {
		return 0
	}
	for i := range servers {
		if info.Cluster.Leader == fmt.Sprintf("n%d", i) {
			return i
		}
	}
	return 0
}

func (c *natsCluster) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	stream, err := c.js.Stream(ctx, journal.Stream)
	if err != nil {
		return nil, err
	}
	return stream.CachedInfo(), nil
}

// whole waits until the journal has a leader and its followers are up to date.
func (c *natsCluster) whole(ctx context.Context) error {
	return until(ctx, "the journal is on three servers again", func(ctx context.Context) error {
		info, err := c.info(ctx)
		if err != nil {
			return err
		}
		if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != servers-1 {
			return fmt.Errorf("the cluster is %+v", info.Cluster)
		}
		for _, replica := range info.Cluster.Replicas {
			if !replica.Current || replica.Offline {
				return fmt.Errorf("%s is not current", replica.Name)
			}
		}
		return nil
	})
}

// each reads all that a stream holds.
func (c *natsCluster) each(ctx context.Context, stream string, tell func(*jetstream.RawStreamMsg) error) error {
	held, err := c.js.Stream(ctx, stream)
	if err != nil {
		return err
	}
	last := held.CachedInfo().State.LastSeq
	if held.CachedInfo().State.Msgs == 0 {
		return nil
	}
	consumer, err := held.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	err = handleAll(ctx, consumer, func(raw *jetstream.RawStreamMsg) error {
		if err := tell(raw); err != nil {
			return err
		}
		if raw.Sequence >= last {
			return errAllRead
		}
		return nil
	})
	if errors.Is(err, errAllRead) {
		return nil
	}
	return err
}

// errAllRead ends handleAll behind the last message.
var errAllRead = errors.New("all is read")

// handleAll handles a consumer's messages, as the stream stores them, until handle
// or the consumer returns an error.
func handleAll(ctx context.Context, consumer jetstream.Consumer, handle func(*jetstream.RawStreamMsg) error, options ...jetstream.PullMessagesOpt) error {
	messages, err := consumer.Messages(options...)
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		raw, err := rawOf(message)
		if err != nil {
			return err
		}
		if err := handle(raw); err != nil {
			return err
		}
	}
}

// states are how much of the journal each server has, by its own account.
func (c *natsCluster) states(ctx context.Context) ([]string, error) {
	var states []string
	for _, port := range c.monitors {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+"/jsz?streams=1", http.NoBody)
		if err != nil {
			return nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		var told struct {
			Accounts []struct {
				Streams []struct {
					Name  string `json:"name"`
					State struct {
						Messages uint64 `json:"messages"`
						Bytes    uint64 `json:"bytes"`
						FirstSeq uint64 `json:"first_seq"`
						LastSeq  uint64 `json:"last_seq"`
					} `json:"state"`
				} `json:"stream_detail"`
			} `json:"account_details"`
		}
		if err := json.NewDecoder(response.Body).Decode(&told); err != nil {
			return nil, err
		}
		state := "no journal"
		for _, account := range told.Accounts {
			for _, stream := range account.Streams {
				if stream.Name == journal.Stream {
					state = fmt.Sprintf("%+v", stream.State)
				}
			}
		}
		states = append(states, state)
	}
	return states, nil
}

// unsettled counts what a consumer has not delivered, or has without an
// acknowledgement.
func (c *natsCluster) unsettled(ctx context.Context, consumer string) (uint64, error) {
	info, err := c.consumer(ctx, consumer)
	if err != nil {
		return 0, err
	}
	return info.NumPending + uint64(info.NumAckPending), nil
}

// The consumers that must have nothing left at the end.
const (
	poolConsumer     = "pool-default"
	announceConsumer = "keeper-announce"
)

func (c *natsCluster) consumer(ctx context.Context, name string) (*jetstream.ConsumerInfo, error) {
	consumer, err := c.js.Consumer(ctx, journal.Stream, name)
	if err != nil {
		return nil, err
	}
	return consumer.CachedInfo(), nil
}

func (c *natsCluster) close() error {
	if c.conn != nil {
		c.conn.Close()
	}
	var failed []error
	for i := range servers {
		if c.parts[i] != nil {
			failed = append(failed, c.parts[i].kill())
		}
		if c.routes[i] != nil {
			failed = append(failed, c.routes[i].close())
		}
	}
	return errors.Join(failed...)
}
