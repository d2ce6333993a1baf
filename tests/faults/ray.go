package faults

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"rayexecutor/minder"
	"rayexecutor/ray"
	"rayexecutor/ray/local"
	"rayexecutor/ray/worker"
	"rayexecutor/tests/system"
)

const nodes = 2

// rayCluster is a head that runs no workers, and nodes that do. The last node's
// clock is wrong.
type rayCluster struct {
	dir     string
	environ []string // of ray-executor deploy, without RAY_ADDRESS
	options ray.Options

	head           *local.Ray
	nodes          [nodes]*local.Ray
	gcs, dashboard int
	token          string // of each head
	version        int
}

// startRay starts the nodes and deploys the worker.
func startRay(ctx context.Context, dir string, environ []string, options ray.Options) (*rayCluster, error) {
	c := &rayCluster{dir: dir, environ: environ, options: options, token: rand.Text()}
	shim, err := os.ReadFile(filepath.Join(system.Root(), "tests", "faults", "sitecustomize.py"))
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.Mkdir(filepath.Join(dir, "clock"), 0o700),
		os.WriteFile(filepath.Join(dir, "clock", "sitecustomize.py"), shim, 0o600), c.setClock(-90*time.Minute))
	if err != nil {
		return nil, err
	}
	if err := c.startHead(ctx); err != nil {
		return c, err
	}
	for i := range nodes {
		if err := c.startNode(ctx, i); err != nil {
			return c, err
		}
	}
	return c, c.deploy(ctx, options.Replicas)
}

func venv() string {
	if venv := os.Getenv("RAY_VENV"); venv != "" {
		return venv
	}
	return filepath.Join(system.Root(), ".venv")
}

func (c *rayCluster) startHead(ctx context.Context) error {
	var err error
	c.head, err = start(ctx, local.Options{
		Venv: venv(), NumCPUs: -1, IP: "127.0.0.2", Port: c.gcs, DashboardPort: c.dashboard, Token: c.token, LogDir: filepath.Join(c.dir, "ray"),
	})
	if err == nil {
		c.gcs, c.dashboard = c.head.Ports()
	}
	return err
}

func (c *rayCluster) startNode(ctx context.Context, i int) error {
	options := local.Options{
		Venv: venv(), NumCPUs: 2, IP: fmt.Sprintf("127.0.0.%d", 3+i), Head: c.head,
	}
	if i == nodes-1 {
		options.Env = []string{"PYTHONPATH=" + filepath.Join(c.dir, "clock"), "FAULTS_CLOCK=" + c.clock()}
	}
	var err error
	c.nodes[i], err = start(ctx, options)
	return err
}

// start starts a node, as Kubernetes does: Ray gives up by itself where two
// busy processors do not let its agents come up within 15 s.
func start(ctx context.Context, options local.Options) (node *local.Ray, err error) {
	for range 4 {
		if node, err = local.Start(ctx, options); err == nil {
			return node, nil
		}
	}
	return nil, err
}

func (c *rayCluster) clock() string { return filepath.Join(c.dir, "clock", "offset") }

// setClock sets how wrong the last node's clock is.
func (c *rayCluster) setClock(offset time.Duration) error {
	file, err := os.OpenFile(c.clock(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return binary.Write(file, binary.LittleEndian, math.Float64bits(offset.Seconds()))
}

// restartNode loses a node and brings it back.
func (c *rayCluster) restartNode(ctx context.Context, i int) error {
	return errors.Join(c.nodes[i].Stop(ctx), c.startNode(ctx, i))
}

// restartHead brings the head back after it was killed. The nodes of the old
// one are of no more use; who has not noticed is ended.
func (c *rayCluster) restartHead(ctx context.Context) error {
	if err := errors.Join(c.head.Stop(ctx), c.startHead(ctx)); err != nil {
		return err
	}
	for i, node := range c.nodes {
		select {
		case <-node.Exited():
		case <-time.After(5 * time.Second):
			if err := node.Kill(); err != nil {
				return err
			}
		}
		if err := c.restartNode(ctx, i); err != nil {
			return err
		}
	}
	return c.deploy(ctx, c.options.Replicas)
}

// roll deploys another version of the worker.
func (c *rayCluster) roll(ctx context.Context) error {
	c.version++
	return c.deploy(ctx, c.options.Replicas)
}

// deploy deploys the version in force: an even one is what `ray-executor
// deploy` carries, an odd one has a file more.
func (c *rayCluster) deploy(ctx context.Context, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	if c.version%2 == 0 {
		environ := append(slices.Clone(c.environ), "RAY_ADDRESS="+c.head.Address(), "RAY_AUTH_TOKEN="+c.token, "WORKER_REPLICAS="+strconv.Itoa(replicas))
		printed, err := system.Output(ctx, environ, program(), "deploy", "--only", "worker")
		if err != nil {
			return fmt.Errorf("deploy: %w\n%s", err, printed)
		}
		return nil
	}
	pack, err := otherVersion(c.version)
	if err != nil {
		return err
	}
	client, err := ray.NewClient(ray.Cluster{Name: "default", Address: c.head.Address(), Token: c.token})
	if err != nil {
		return err
	}
	defer client.Close()
	options := c.options
	options.Package, options.Replicas = pack, replicas
	return ray.Deploy(ctx, client, options)
}

// otherVersion is the worker with a file more, which makes it another package.
func otherVersion(number int) (worker.Package, error) {
	pack, err := worker.New(false)
	if err != nil {
		return pack, err
	}
	archive, err := zip.NewReader(bytes.NewReader(pack.Zip), int64(len(pack.Zip)))
	if err != nil {
		return pack, err
	}
	files := map[string][]byte{"version.txt": []byte(strconv.Itoa(number))}
	for _, file := range archive.File {
		reader, err := file.Open()
		if err != nil {
			return pack, err
		}
		if files[file.Name], err = io.ReadAll(reader); err != nil {
			return pack, err
		}
	}
	return worker.Pack(files)
}

// replica is a worker replica that runs.
type replica system.Replica

func (c *rayCluster) replicas(ctx context.Context) ([]replica, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	all, err := system.Replicas(ctx, c.head)
	if err != nil {
		return nil, err
	}
	var running []replica
	for _, one := range all {
		if one.State == "RUNNING" && one.PID != 0 {
			running = append(running, replica(one))
		}
	}
	return running, nil
}

// some is one of the replicas that run.
func (c *rayCluster) some(ctx context.Context, which uint32) (replica, error) {
	var all []replica
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	err := until(ctx, "a worker replica runs", func(ctx context.Context) (err error) {
		all, err = c.replicas(ctx)
		if err == nil && len(all) == 0 {
			err = errors.New("none does")
		}
		return err
	})
	if err != nil {
		return replica{}, err
	}
	return all[int(which)%len(all)], nil
}

// complete waits until as many replicas run as should.
func (c *rayCluster) complete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healTime)
	defer cancel()
	return until(ctx, "all worker replicas run", func(ctx context.Context) error {
		all, err := c.replicas(ctx)
		if err == nil && len(all) < c.options.Replicas {
			err = fmt.Errorf("%d do", len(all))
		}
		return err
	})
}

// skewed reports whether a process lives with the wrong clock.
func (c *rayCluster) skewed(pid int) bool {
	_, err := os.Stat(c.clock() + "." + strconv.Itoa(pid))
	return err == nil
}

// signal sends a signal to a replica; one that has gone needs none.
func (c *rayCluster) signal(one replica, signal syscall.Signal) error {
	for _, node := range append(c.nodes[:], c.head) {
		if node == nil || node.IP() != one.NodeIP {
			continue
		}
		if err := node.Signal(one.PID, signal); err != nil && !errors.Is(err, minder.ErrNotOurs) {
			return fmt.Errorf("%s to replica %s: %w", signal, one.ID, err)
		}
	}
	return nil
}

func (c *rayCluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var failed []error
	for _, node := range append(c.nodes[:], c.head) {
		if node != nil {
			failed = append(failed, node.Kill(), node.Stop(ctx))
		}
	}
	return errors.Join(failed...)
}
