//go:build kubernetes

package kubernetes_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
	"rayexecutor/tests/system"
)

const namespace = "swe-ai-fleet"

// TestOnACluster does, in this order, what an operator and an Orchestrator do.
// Each step stands on those before it.
func TestOnACluster(t *testing.T) {
	report := newReport(t)
	guide := readGuide(t)

	step := func(name string, do func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, do) {
			t.Fatal("what follows stands on this")
		}
	}
	step("the image", func(t *testing.T) {
		guide.run(t, "The image")
		load(t, "dev")
	})
	step("install", func(t *testing.T) {
		done := report.timed("`kubectl apply` to all ready: NATS, functions, keeper, Broker, Triggers, Ray worker")
		guide.run(t, "Install")
		done()
	})

	c := connect(t)
	step("the first deliberation", func(t *testing.T) {
		guide.run(t, "The first deliberation")
	})
	step("an event to the Broker comes back as its end", func(t *testing.T) { c.eventToEnd(t, report) })
	step("the route, warm and cold", func(t *testing.T) { c.scaleToZeroAndBack(t, report) })
	step("the Broker repeats what is answered 503", func(t *testing.T) { c.retried(t, report) })
	step("what is refused for good is a dead letter", func(t *testing.T) { c.deadLetter(t, report) })
	step("cancel, status and list through the Broker", func(t *testing.T) { c.otherTriggers(t) })
	step("upgrade under load", func(t *testing.T) {
		load(t, "next")
		c.underLoad(t, report, "upgrade", func() { guide.run(t, "Upgrade") })
	})
	step("roll back under load", func(t *testing.T) {
		c.underLoad(t, report, "roll-back", func() { guide.run(t, "Roll back") })
	})
	step("the Ray head is lost", func(t *testing.T) { c.headLost(t, report) })
	step("what to watch", func(t *testing.T) { guide.run(t, "What to watch") })
	step("remove it", func(t *testing.T) { guide.run(t, "Remove it") })
	report.write(t)
}

// cluster is what the Orchestrator has of it.
type cluster struct {
	url    string // of the Knative Service ray-executor
	broker string
	nats   *nats.Conn
	ends   *heard // on NATS
	sunk   *heard // through K_SINK, the Broker and a Trigger of ours
}

// heard is what arrived, by deliberation.
type heard struct {
	mu   sync.Mutex
	ends map[string][]cloudevents.Event
}

func (h *heard) add(e cloudevents.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ends == nil {
		h.ends = make(map[string][]cloudevents.Event)
	}
	h.ends[e.Subject()] = append(h.ends[e.Subject()], e)
}

func (h *heard) of(id string) []cloudevents.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ends[id]
}

func (h *heard) hasType(want string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, events := range h.ends {
		for _, e := range events {
			if e.Type() == want {
				return true
			}
		}
	}
	return false
}

func connect(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		url:    kubectl(t, "get", "ksvc", "-n", namespace, "ray-executor", "-o", "jsonpath={.status.url}"),
		broker: kubectl(t, "get", "broker", "-n", namespace, "ray-executor", "-o", "jsonpath={.status.address.url}"),
		ends:   &heard{}, sunk: &heard{},
	}
	conn, err := nats.Connect("nats://nats."+namespace+".svc.cluster.local:4222", nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	c.nats = conn
	if _, err := conn.Subscribe("orchestration.deliberation.>", func(message *nats.Msg) {
		var e cloudevents.Event
		if err := json.Unmarshal(message.Data, &e); err != nil {
			t.Errorf("an announcement that is no CloudEvent: %v", err)
			return
		}
		c.ends.add(e)
	}); err != nil {
		t.Fatal(err)
	}
	hear(t, "ends", []string{
		"ray_executor.v1.DeliberationCompleted", "ray_executor.v1.DeliberationFailed", "ray_executor.v1.DeliberationCancelled",
	}, c.sunk)
	return c
}

// hear is the Orchestrator's side of the Broker: Triggers on some types, and
// what they call.
func hear(t *testing.T, name string, types []string, to *heard) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(nodeAddress(t), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := cloudevents.NewEventFromHTTPRequest(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		to.add(*e)
		w.WriteHeader(http.StatusAccepted)
	})}
	go func() { _ = server.Serve(listener) }()

	var manifests strings.Builder
	for n, each := range types {
		fmt.Fprintf(&manifests, `
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: %s-%d, namespace: %s}
spec:
  broker: ray-executor
  filter: {attributes: {type: %s}}
  subscriber: {uri: "http://%s/"}
---
`, name, n, namespace, each, listener.Addr())
	}
	apply := exec.Command("kubectl", "apply", "-f", "-")
	apply.Stdin = strings.NewReader(manifests.String())
	if printed, err := apply.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	// Neither is taken away before the end: the in-memory channel remembers
	// Triggers that are deleted together, and tries them for minutes before it
	// answers whoever posts.
	kubectl(t, "wait", "-n", namespace, "--for=condition=Ready", "trigger", "--all", "--timeout=60s")
}

// post sends a request to the Broker as a binary CloudEvent.
func (c *cluster) post(t *testing.T, id string, request proto.Message) {
	t.Helper()
	if err := system.Post(t.Context(), http.DefaultClient, c.broker, id, request); err != nil {
		t.Fatal(err)
	}
}

// call calls the Service through Kourier's route, and repeats what it is told
// to repeat.
func (c *cluster) call(t *testing.T, id string, request, reply proto.Message) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		return system.Send(t.Context(), http.DefaultClient, c.url, id, request, reply)
	})
}

func (c *cluster) status(t *testing.T, id string) *pb.GetDeliberationStatusResponse {
	t.Helper()
	var reply pb.GetDeliberationStatusResponse
	c.call(t, "status-"+id, &pb.GetDeliberationStatusRequest{DeliberationId: id}, &reply)
	return &reply
}

// ended waits until an end was heard on NATS and through the Broker: the same
// one, with the same id, and no other.
func (c *cluster) ended(t *testing.T, id string, within time.Duration) cloudevents.Event {
	t.Helper()
	eventually(t, within, func() error {
		if len(c.ends.of(id)) == 0 {
			return fmt.Errorf("no end of %s was heard on NATS", id)
		}
		if len(c.sunk.of(id)) == 0 {
			return fmt.Errorf("no end of %s came through the Broker", id)
		}
		return nil
	})
	first := c.ends.of(id)[0]
	for _, e := range append(c.ends.of(id), c.sunk.of(id)...) {
		if e.ID() != first.ID() || e.Type() != first.Type() {
			t.Errorf("%s: heard %s %s and %s %s", id, first.Type(), first.ID(), e.Type(), e.ID())
		}
	}
	return first
}

func request(id string, agents int) *pb.ExecuteDeliberationRequest {
	r := &pb.ExecuteDeliberationRequest{
		DeliberationId: id, TaskId: "task-" + id, TaskDescription: "Name three risks of caching", Role: "DEV",
	}
	for n := range agents {
		r.Agents = append(r.Agents, &pb.Agent{Id: fmt.Sprintf("agent-%d", n)})
	}
	return r
}

func (c *cluster) eventToEnd(t *testing.T, report *report) {
	eventually(t, 3*time.Minute, func() error { return noPods("serving.knative.dev/service=ray-executor-submit") })
	id := deliberation.NewID()
	done := report.timed("event to the Broker → submit (from zero) → Ray → end heard on NATS and through K_SINK")
	c.post(t, id, request(id, 3))
	c.ended(t, id, 2*time.Minute)
	done()

	var warm []time.Duration
	for range 10 {
		id := deliberation.NewID()
		begun := time.Now()
		c.post(t, id, request(id, 3))
		eventually(t, time.Minute, func() error {
			if len(c.sunk.of(id)) == 0 {
				return fmt.Errorf("no end of %s", id)
			}
			return nil
		})
		warm = append(warm, time.Since(begun))
	}
	report.median("the same, warm: event to the Broker → end back through K_SINK", warm)

	if state := c.status(t, id); state.GetStatus() != "completed" || len(state.GetResults()) != 3 {
		t.Errorf("its status is %v", state)
	}
}

func (c *cluster) scaleToZeroAndBack(t *testing.T, report *report) {
	var reply pb.GetStatusResponse
	var warm []time.Duration
	c.call(t, "warm", &pb.GetStatusRequest{}, &reply)
	for range 20 {
		begun := time.Now()
		c.call(t, "warm", &pb.GetStatusRequest{}, &reply)
		warm = append(warm, time.Since(begun))
	}
	report.median("a warm request (statistics and Ray's state) through Kourier's route", warm)

	done := report.timed("last request → no pod of the functions left (stable window 10 s, grace 5 s)")
	eventually(t, 3*time.Minute, func() error { return noPods("serving.knative.dev/service=ray-executor") })
	done()
	begun := time.Now()
	c.call(t, "cold", &pb.GetStatusRequest{}, &reply)
	report.add("a cold request: from no pod to the answer", time.Since(begun))
}

// retried stops NATS's processes for some seconds: the function answers 503,
// and the Broker brings the events again until they are taken.
func (c *cluster) retried(t *testing.T, report *report) {
	servers := processes(t, "nats-server\x00--config\x00/etc/nats/nats.conf")
	if len(servers) != 3 {
		t.Fatalf("%d NATS servers run", len(servers))
	}
	var resume sync.Once
	defer resume.Do(func() { signal(t, servers, syscall.SIGCONT) })
	var done func()
	ids := c.whileSending(t, func() {
		// A pod has to be there: one that starts now would not get ready.
		eventually(t, time.Minute, func() error {
			if logs, err := logsOf("submit", "functions"); err != nil || !strings.Contains(logs, `"msg":"ready"`) {
				return fmt.Errorf("submit is not ready: %w\n%s", err, logs)
			}
			return nil
		})
		signal(t, servers, syscall.SIGSTOP)
		done = report.timed("NATS stands still, submit answers 503, NATS goes on, the Broker has repeated them all, and they have completed")
		eventually(t, 40*time.Second, func() error {
			logs, err := logsOf("submit", "functions")
			if err != nil || strings.Count(logs, `"code":"unavailable"`) < 2 {
				return fmt.Errorf("it was hardly refused: %w\n%s", err, logs)
			}
			return nil
		})
		resume.Do(func() { signal(t, servers, syscall.SIGCONT) })
	})
	c.completed(t, ids)
	done()
}

func (c *cluster) deadLetter(t *testing.T, report *report) {
	id := deliberation.NewID()
	bad := request(id, 1)
	bad.Role = ""
	done := report.timed("an event that is refused with 400 → the dead-letter sink")
	c.post(t, id, bad)
	eventually(t, 2*time.Minute, func() error {
		logs, err := logsOf("dead-letters", "dead-letters")
		for _, line := range strings.Split(logs, "\n") {
			if strings.Contains(line, id) && strings.Contains(line, "knativeerrorcode") && strings.Contains(line, "400") {
				return nil
			}
		}
		return fmt.Errorf("no dead letter %s: %w\n%s", id, err, logs)
	})
	done()
	if state := c.status(t, id); state.GetStatus() != "not_found" {
		t.Errorf("what was refused is %s", state.GetStatus())
	}
}

// otherTriggers sends what is neither a submit nor answered to us: the replies
// go into the Broker, and what they did is seen from outside.
func (c *cluster) otherTriggers(t *testing.T) {
	replies := []struct {
		about   string
		request proto.Message
		want    string
	}{
		{"status", &pb.GetDeliberationStatusRequest{DeliberationId: "first-1"}, "ray_executor.v1.GetDeliberationStatusResponse"},
		{"list", &pb.ListDeliberationsRequest{PageSize: 3}, "ray_executor.v1.ListDeliberationsResponse"},
		{"stats", &pb.GetStatusRequest{}, "ray_executor.v1.GetStatusResponse"},
		{"jobs", &pb.GetActiveJobsRequest{}, "ray_executor.v1.GetActiveJobsResponse"},
		{"cancel", &pb.CancelDeliberationRequest{DeliberationId: "first-1"}, "ray_executor.v1.CancelDeliberationResponse"},
	}
	answered := &heard{}
	wanted := make([]string, 0, len(replies))
	for _, each := range replies {
		wanted = append(wanted, each.want)
	}
	hear(t, "replies", wanted, answered)
	for _, each := range replies {
		c.post(t, each.about+"-"+deliberation.NewID(), each.request)
	}
	eventually(t, 2*time.Minute, func() error {
		for _, want := range wanted {
			if !answered.hasType(want) {
				return fmt.Errorf("no %s came back into the Broker", want)
			}
		}
		return nil
	})
}

// whileSending posts deliberations, five a second, for as long as do takes.
func (c *cluster) whileSending(t *testing.T, do func()) (ids []string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	defer sending.Wait()
	defer stop()
	sending.Go(func() {
		pace := time.NewTicker(200 * time.Millisecond)
		defer pace.Stop()
		for ; ctx.Err() == nil; <-pace.C {
			id := deliberation.NewID()
			// Not ctx: the last one is sent, too.
			if err := system.Post(t.Context(), http.DefaultClient, c.broker, id, request(id, 2)); err != nil {
				t.Errorf("the Broker refused one: %v", err)
				return
			}
			ids = append(ids, id)
		}
	})
	do()
	stop()
	sending.Wait()
	return ids
}

// completed wants each to have completed, once.
func (c *cluster) completed(t *testing.T, ids []string) {
	t.Helper()
	for _, id := range ids {
		if end := c.ended(t, id, 3*time.Minute); end.Type() != "ray_executor.v1.DeliberationCompleted" {
			t.Errorf("%s ended as %s", id, end.Type())
		}
	}
}

// underLoad does something while deliberations run.
func (c *cluster) underLoad(t *testing.T, report *report, what string, do func()) {
	ids := c.whileSending(t, func() {
		done := report.timed(what + " under load: applied, keeper rolled, functions ready, the new Ray cluster alone")
		do()
		eventually(t, 6*time.Minute, func() error { return oneRayCluster(t) })
		done()
	})
	c.completed(t, ids)
	report.notef("%s: %d deliberations sent meanwhile; all have completed, each once", what, len(ids))
}

// headLost deletes Ray's head. What is sent then waits, and runs when KubeRay
// has made another.
func (c *cluster) headLost(t *testing.T, report *report) {
	heads := func() string {
		return kubectl(t, "get", "pods", "-n", namespace, "-l", "ray.io/node-type=head", "-o", "jsonpath={.items[*].metadata.uid}")
	}
	lost := heads()
	kubectl(t, "delete", "pod", "-n", namespace, "-l", "ray.io/node-type=head", "--grace-period=1", "--wait=false")
	done := report.timed("Ray's head is deleted, one is sent when it is gone, KubeRay makes another head, and it has completed")
	eventually(t, time.Minute, func() error {
		if strings.Contains(heads(), lost) {
			return fmt.Errorf("the head %s is still there", lost)
		}
		return nil
	})
	id := deliberation.NewID()
	c.post(t, id, request(id, 2))
	if end := c.ended(t, id, 4*time.Minute); end.Type() != "ray_executor.v1.DeliberationCompleted" {
		t.Errorf("it ended as %s", end.Type())
	}
	done()
}

// load builds the image under a tag and hands it to the rig's containerd, in
// place of a registry.
func load(t *testing.T, tag string) {
	t.Helper()
	if tag != "dev" {
		run(t, "make", "image", "ARCHES=amd64", "IMAGE=dev.local/ray-executor:"+tag)
	}
	run(t, filepath.Join("tests", "kubernetes", "rig", "images.sh"), filepath.Join("dist", "image", "amd64.tar"))
}

func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	command := exec.Command(name, arguments...)
	command.Dir = system.Root()
	printed, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, printed)
	}
	return string(printed)
}

// kubectl returns what it prints to standard output.
func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	var complaints bytes.Buffer
	command := exec.Command("kubectl", arguments...)
	command.Stderr = &complaints
	printed, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, complaints.String())
	}
	return string(printed)
}

// logsOf returns what the pods of a function have logged last; where one is
// only being made, an error.
func logsOf(service, container string) (string, error) {
	printed, err := exec.Command("kubectl", "logs", "-n", namespace, "-l", "serving.knative.dev/service=ray-executor-"+service,
		"-c", container, "--tail=100").CombinedOutput()
	return string(printed), err
}

func noPods(selector string) error {
	printed, err := exec.Command("kubectl", "get", "pods", "-n", namespace, "-l", selector, "-o", "name").Output()
	if err == nil && len(bytes.TrimSpace(printed)) > 0 {
		err = fmt.Errorf("pods are left: %s", printed)
	}
	return err
}

func oneRayCluster(t *testing.T) error {
	t.Helper()
	clusters := strings.Fields(kubectl(t, "get", "raycluster", "-n", namespace, "-o", "name"))
	status := kubectl(t, "get", "rayservice", "-n", namespace, "ray-executor", "-o",
		`jsonpath={.status.conditions[?(@.type=="Ready")].status}{.status.conditions[?(@.type=="UpgradeInProgress")].status}`)
	if len(clusters) != 1 || status != "TrueFalse" {
		return fmt.Errorf("Ray clusters %v, the RayService's Ready and UpgradeInProgress are %s", clusters, status)
	}
	return nil
}

// nodeAddress is where pods reach what runs beside them, as this test does.
func nodeAddress(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
}

func eventually(t *testing.T, within time.Duration, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := await.Until(ctx, "the cluster", try); err != nil {
		t.Fatal(err)
	}
}
