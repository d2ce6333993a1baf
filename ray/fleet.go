package ray

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"google.golang.org/protobuf/proto"

	rayexecutorv1 "rayexecutor/proto/ray_executor/v1"
)

const (
	// statusWait bounds the question to one cluster; functions wait for 3 s.
	statusWait = 2500 * time.Millisecond
	// fresh is how long an answer is returned again, so that statistics that are
	// asked for often do not load the dashboards.
	fresh = time.Second
)

// Fleet is several clusters. Make it with NewFleet; it is safe for concurrent
// use.
type Fleet struct {
	members    []*member
	heartbeats Heartbeats // nil: none
}

// member is a cluster with its latest answer.
type member struct {
	client *Client
	asking singleflight.Group

	mu     sync.Mutex
	latest *rayexecutorv1.Cluster
	asked  time.Time
}

// NewFleet returns a fleet without speaking to any cluster. The error names the
// cluster at fault.
func NewFleet(clusters ...Cluster) (*Fleet, error) {
	fleet := &Fleet{}
	for _, cluster := range clusters {
		client, err := NewClient(cluster)
		if err != nil {
			return nil, fmt.Errorf("cluster %q: %w", cluster.Name, err)
		}
		fleet.members = append(fleet.members, &member{client: client})
	}
	return fleet, nil
}

// Hear makes Clusters include what the workers' heartbeats say. Call it before
// Clusters is.
func (f *Fleet) Hear(heartbeats Heartbeats) { f.heartbeats = heartbeats }

// Clients are the clusters' clients, in the order of NewFleet.
func (f *Fleet) Clients() []*Client {
	clients := make([]*Client, len(f.members))
	for i, member := range f.members {
		clients[i] = member.client
	}
	return clients
}

// Close lets go of idle connections; the fleet may still be used.
func (f *Fleet) Close() {
	for _, member := range f.members {
		member.client.Close()
	}
}

// Clusters asks every cluster at once, for at most a few seconds, and answers
// in the order of NewFleet. One that cannot be reached says so itself. Answers
// are up to a second old.
func (f *Fleet) Clusters(ctx context.Context) []*rayexecutorv1.Cluster {
	statuses := make([]*rayexecutorv1.Cluster, len(f.members))
	var asked sync.WaitGroup
	for i, member := range f.members {
		asked.Go(func() { statuses[i] = member.status(ctx, f.heartbeats) })
	}
	asked.Wait()
	return statuses
}

// status is the cluster's latest answer if it is fresh, else a new one, which
// callers that come meanwhile share: so it does not end with one caller's ctx.
func (m *member) status(ctx context.Context, heartbeats Heartbeats) *rayexecutorv1.Cluster {
	if status := m.known(); status != nil {
		return status
	}
	answer := m.asking.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), statusWait)
		defer cancel()
		m.learn(m.client.Status(ctx, heartbeats))
		return nil, nil
	})
	select {
	case <-answer:
		return m.last()
	case <-ctx.Done():
		return &rayexecutorv1.Cluster{
			Name: m.client.Name(), Address: m.client.Address(),
			Error: fmt.Sprintf("cluster %q did not answer in time: %v", m.client.Name(), ctx.Err()),
		}
	}
}

func (m *member) known() *rayexecutorv1.Cluster {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) > fresh {
		return nil
	}
	return proto.CloneOf(m.latest)
}

func (m *member) last() *rayexecutorv1.Cluster {
	m.mu.Lock()
	defer m.mu.Unlock()
	return proto.CloneOf(m.latest)
}

func (m *member) learn(status *rayexecutorv1.Cluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latest, m.asked = status, time.Now()
}
