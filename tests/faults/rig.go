package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"rayexecutor/config"
	"rayexecutor/ray"
	"rayexecutor/tests/freeport"
	"rayexecutor/tests/system"
)

// rig is the whole system, and what runs between its parts.
type rig struct {
	dir       string
	nats      *natsCluster
	functions [2]*part
	urls      [2]string
	keepers   [2]*part
	ray       *rayCluster
	model     *model
	// ackWait is how long a worker may be silent about what it holds.
	ackWait time.Duration

	toModel, functionsToNATS, keeperToNATS, otherKeeperToNATS, workersToNATS *line
}

// startRig starts everything; close is to be called whatever comes back.
func startRig(ctx context.Context, dir string) (*rig, error) {
	r := &rig{dir: dir}
	err := system.Build("build")
	if err != nil {
		return r, err
	}
	if r.model, err = startModel(); err != nil {
		return r, err
	}
	if r.nats, err = startNATS(ctx, dir); err != nil {
		return r, err
	}
	if err := r.draw(); err != nil {
		return r, err
	}
	printed, err := system.Output(ctx, r.environ(r.nats.urls()), program(), "deploy", "--only", "journal")
	if err != nil {
		return r, fmt.Errorf("deploy the journal: %w\n%s", err, printed)
	}
	pool, err := r.nats.consumer(ctx, poolConsumer)
	if err != nil {
		return r, err
	}
	r.ackWait = pool.Config.AckWait
	workersNATS := strings.Join(r.workersToNATS.addresses("nats://"), ",")
	r.ray, err = startRay(ctx, dir, append(r.environ(r.nats.urls()), "WORKER_NATS_URL="+workersNATS), ray.Options{
		NATSURL: workersNATS, Pools: map[string]int{"default": config.DefaultInFlight}, ClusterName: "default",
		ModelHosts: r.toModel.addresses(""), Replicas: 2,
	})
	if err != nil {
		return r, err
	}
	return r, r.startServers()
}

// draw draws the lines.
func (r *rig) draw() error {
	var failed []error
	for _, l := range []struct {
		line **line
		name string
		to   []string
	}{
		{&r.toModel, "model", []string{r.model.listener.Addr().String()}},
		{&r.functionsToNATS, "functions", r.nats.addresses()},
		{&r.keeperToNATS, "keeper", r.nats.addresses()},
		{&r.otherKeeperToNATS, "keeper", r.nats.addresses()},
		{&r.workersToNATS, "workers", r.nats.addresses()},
	} {
		made, err := newLine(l.name, l.to...)
		*l.line, failed = made, append(failed, err)
	}
	return errors.Join(failed...)
}

// startServers starts the function servers and the keepers.
func (r *rig) startServers() error {
	ofRay := []string{"RAY_ADDRESS=" + r.ray.head.Address(), "RAY_AUTH_TOKEN=" + r.ray.token}
	lines := []*line{r.keeperToNATS, r.otherKeeperToNATS}
	for i := range r.functions {
		port, err := freeport.Take()
		if err != nil {
			return err
		}
		r.urls[i] = "http://" + loopback(port)
		r.functions[i] = &part{
			log:     filepath.Join(r.dir, fmt.Sprintf("serve-%d.log", i)),
			environ: append(r.environ(strings.Join(r.functionsToNATS.addresses("nats://"), ",")), append(ofRay, "KEEPER=false", "PORT="+strconv.Itoa(port), "GRPC_PORT=0")...),
			command: []string{program(), "serve"},
		}
		r.keepers[i] = &part{
			log:     filepath.Join(r.dir, fmt.Sprintf("keeper-%d.log", i)),
			environ: append(r.environ(strings.Join(lines[i].addresses("nats://"), ",")), append(ofRay, "PORT=0")...),
			command: []string{program(), "keeper"},
		}
		if err := errors.Join(r.functions[i].start(), r.keepers[i].start()); err != nil {
			return err
		}
	}
	return nil
}

// environ is what the processes run with: nothing of Ray's own, and no settings
// of whoever runs the tests.
func (r *rig) environ(natsURL string) []string {
	environ := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return strings.HasPrefix(name, "RAY_") || slices.Contains(config.Names(), name)
	})
	return append(environ,
		"NATS_URL="+natsURL, "JOURNAL_REPLICAS=3", "JOURNAL_MAX_BYTES=2147483648",
		"VLLM_URL="+r.toModel.addresses("http://")[0], "VLLM_MODEL="+Quick,
	)
}

// healthy waits until every part is as it was.
func (r *rig) healthy(ctx context.Context) error {
	if err := r.nats.whole(ctx); err != nil {
		return err
	}
	return r.ray.complete(ctx)
}

// versions tells what was tested, and on what.
func (r *rig) versions(ctx context.Context) string {
	rayVersion := "unknown"
	if client, err := ray.NewClient(ray.Cluster{Name: "default", Address: r.ray.head.Address(), Token: r.ray.token}); err == nil {
		defer client.Close()
		if told, err := client.Version(ctx); err == nil {
			rayVersion = told
		}
	}
	return fmt.Sprintf("Ray %s, nats-server %s, %s, %d processors", rayVersion, r.nats.conn.ConnectedServerVersion(),
		runtime.Version(), runtime.NumCPU())
}

// close ends everything. Nothing is left behind.
func (r *rig) close() error {
	var failed []error
	if r.ray != nil {
		failed = append(failed, r.ray.close())
	}
	for _, p := range append(r.functions[:], r.keepers[:]...) {
		if p != nil {
			failed = append(failed, p.kill())
		}
	}
	if r.nats != nil {
		failed = append(failed, r.nats.close())
	}
	for _, l := range []*line{r.toModel, r.functionsToNATS, r.keeperToNATS, r.otherKeeperToNATS, r.workersToNATS} {
		if l != nil {
			failed = append(failed, l.close())
		}
	}
	if r.model != nil {
		failed = append(failed, r.model.close())
	}
	return errors.Join(failed...)
}

func program() string { return filepath.Join(system.Root(), "bin", "ray-executor") }
