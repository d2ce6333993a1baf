package heavy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

const (
	// backlog is how many deliberations are open: somewhat more than the limit.
	backlog = journal.MaxOpen + 10_000
	// ended deliberations are stored before them, two messages each: a million in all.
	ended = 250_000
	total = backlog + 2*ended
	// natsPodBytes is the memory of a NATS pod, natsGoLimit its GOMEMLIMIT:
	// deploy/base/nats.yaml.
	natsPodBytes = 2 << 30
	natsGoLimit  = "1700MiB"
	// readsASecond statuses are read of deliberations that the server does not have
	// in its cache, for readFor.
	readsASecond = 50
	readFor      = 30 * time.Second
)

// figures are rows of a Markdown table.
type figures struct{ rows []string }

func (f *figures) addf(what, format string, args ...any) {
	f.rows = append(f.rows, fmt.Sprintf("| %s | %s |", what, fmt.Sprintf(format, args...)))
}

// TestBacklogFigures measures the system with as many open deliberations as may be: a
// keeper and a function in pods of 256 MiB, NATS in one of 2 GiB.
func TestBacklogFigures(t *testing.T) {
	if os.Getenv("HEAVY_FIGURES") == "" {
		t.Skip("HEAVY_FIGURES=1 measures them")
	}
	found := &figures{}
	functionPod, keeperPod, natsPod := newPod(t, podBytes), newPod(t, podBytes), newPod(t, natsPodBytes)
	sys := system.Make(t, system.Options{
		Wrap: functionPod.wrap(), WrapNATS: append(natsPod.wrap(), "env", "GOMEMLIMIT="+natsGoLimit),
		Settings: []string{"KEEPER=false"},
	})
	if err := sys.StartJournal(t.Context()); err != nil {
		t.Fatal(err)
	}
	store(t, sys, found)
	js := dial(t, sys)
	keeper := startKeeper(t, sys, keeperPod, js, found)
	measureSnapshot(t, sys, js, found)
	if err := sys.StartServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	measureCalls(t, sys, js, found)
	if status, said := submit(t, sys); status != http.StatusTooManyRequests {
		t.Errorf("a submit above the limit is answered %d: %s", status, said)
	}
	found.addf("function: peak in 256 MiB, and how often the kernel killed it", "%d MB, %s", peak(t, sys.ServerPID())>>20, functionPod.killed())
	found.addf("keeper: peak in 256 MiB, and how often the kernel killed it", "%d MB, %s", peak(t, keeper.PID())>>20, keeperPod.killed())
	measureReads(t, sys, found)
	found.addf("nats-server: peak in 2 GiB, and how often the kernel killed it", "%d MB, %s", peak(t, sys.NATSPID())>>20, natsPod.killed())
	t.Logf("\n\n| with 510,000 open deliberations, a million messages | |\n|---|---|\n%s\n", strings.Join(found.rows, "\n"))
}

// submit submits one more.
func submit(t *testing.T, sys *system.System) (status int, said string) {
	t.Helper()
	body := `{"task_id":"t","task_description":"d","role":"r","agents":[{"id":"a"}]}`
	response, err := http.Post(sys.URL()+"/v1/deliberations", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// id is that of the n-th deliberation, as long as a UUID.
func id(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-%012x", n, n) }

// store stores the ended deliberations and the backlog, past all doors.
func store(t *testing.T, sys *system.System, found *figures) {
	t.Helper()
	js := dial(t, sys)
	began := time.Now()
	published := 0
	publish := func(event proto.Message) {
		encoded, err := events.Encode(event, events.Source, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.PublishMsgAsync(&nats.Msg{Subject: encoded.Subject, Header: encoded.Header, Data: encoded.Data}); err != nil {
			t.Fatal(err)
		}
		if published++; published%2000 == 0 || published == total {
			<-js.PublishAsyncComplete()
		}
	}
	for n := range ended {
		publish(journaltest.Record(id(backlog+n), 1, 86_400))
		publish(&pb.DeliberationCompleted{DeliberationId: id(backlog + n), TaskId: "t"})
	}
	for n := range backlog {
		publish(journaltest.Record(id(n), 1, 86_400))
	}
	info, err := stream(t, js, journal.Stream).Info(t.Context())
	if err != nil || info.State.Msgs != total {
		t.Fatalf("the journal has %v, %v", info, err)
	}
	t.Logf("stored in %s", time.Since(began).Round(time.Second))
	found.addf("nats-server: the journal's bytes; its memory", "%d MB; %d MB", info.State.Bytes>>20, resident(t, sys.NATSPID())>>20)
}

func dial(t *testing.T, sys *system.System) jetstream.JetStream {
	t.Helper()
	conn, err := sys.NATS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func stream(t *testing.T, js jetstream.JetStream, name string) jetstream.Stream {
	t.Helper()
	found, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// startKeeper starts a keeper and waits for its snapshot of the whole backlog.
func startKeeper(t *testing.T, sys *system.System, p *pod, js jetstream.JetStream, found *figures) *system.Process {
	t.Helper()
	command := append(p.wrap(), filepath.Join(system.Root(), "bin", "ray-executor"), "keeper")
	began := time.Now()
	log := filepath.Join(t.TempDir(), "keeper.log")
	keeper, err := system.Start(log, append(sys.Environ(), "PORT=0"), command[0], command[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keeper.Kill() })
	events := journaltest.Undeployed(t, journal.Settings{URL: sys.NATSURL(), Wait: time.Minute})
	for ; time.Since(began) < 8*time.Minute; time.Sleep(200 * time.Millisecond) {
		bucket, err := js.KeyValue(t.Context(), journal.Statistics)
		if err != nil {
			t.Fatal(err)
		}
		if value, err := bucket.Get(t.Context(), "snapshot"); errors.Is(err, jetstream.ErrKeyNotFound) || err == nil && value.Revision() < 2 {
			continue // the first one may be of a part
		}
		ledger, _, err := events.Ledger(t.Context())
		if err == nil && ledger.Sequence() >= total {
			found.addf("keeper: counts the backlog from nothing, and stores it", "%.0f s", time.Since(began).Seconds())
			return keeper
		}
	}
	said, _ := os.ReadFile(log)
	t.Fatalf("the keeper has stored no snapshot of the backlog; killed %s times\n%s", p.killed(), said)
	return nil
}

// measureSnapshot measures what a keeper does for a snapshot, and a function when
// it starts.
func measureSnapshot(t *testing.T, sys *system.System, js jetstream.JetStream, found *figures) {
	t.Helper()
	events := journaltest.Undeployed(t, journal.Settings{URL: sys.NATSURL(), Wait: time.Minute})
	began := time.Now()
	ledger, _, err := events.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	read := time.Since(began)
	began = time.Now()
	snapshot, err := ledger.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	encoded := time.Since(began)
	objects, err := js.ObjectStore(t.Context(), journal.Results)
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if _, err := objects.PutBytes(t.Context(), "figure", snapshot.Data); err != nil {
		t.Fatal(err)
	}
	stored := time.Since(began)
	if err := objects.Delete(t.Context(), "figure"); err != nil {
		t.Fatal(err)
	}
	found.addf("snapshot: size, every 125 s; encode, store, read", "%d MB; %.1f s, %.1f s, %.1f s", len(snapshot.Data)>>20,
		encoded.Seconds(), stored.Seconds(), read.Seconds())
}

// measureCalls measures a function that has just started, and then has its ledger.
func measureCalls(t *testing.T, sys *system.System, js jetstream.JetStream, found *figures) {
	t.Helper()
	found.addf("first stats of a function that has just started", "%s", call(t, sys, "/v1/stats", 1))
	found.addf("stats, median of 20", "%s", call(t, sys, "/v1/stats", 20))
	found.addf("active jobs (the first 1,000 and 1 MiB), median of 5", "%s", call(t, sys, "/v1/jobs", 5))
	found.addf("a list of 50 queued ones, median of 20", "%s", call(t, sys, "/v1/deliberations?state=queued", 20))
	deleted := stream(t, js, journal.Stream)
	if err := deleted.Purge(t.Context(), jetstream.WithPurgeSubject("deliberation.*.*."+id(backlog/2))); err != nil {
		t.Fatal(err)
	}
	found.addf("stats after one was purged, median of 20", "%s", call(t, sys, "/v1/stats", 20))
}

// call returns the median time of so many calls.
func call(t *testing.T, sys *system.System, path string, times int) string {
	t.Helper()
	var took []time.Duration
	for range times {
		took = append(took, get(t, sys.URL()+path))
	}
	return median(took).Round(100 * time.Microsecond).String()
}

// get returns how long an answer took; other answers than 200 fail the test.
func get(t *testing.T, url string) time.Duration {
	t.Helper()
	began := time.Now()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s is answered %d, %v: %.300s", url, response.StatusCode, err, body)
	}
	return time.Since(began)
}

func median(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}

// measureReads reads statuses at random, at a constant rate.
func measureReads(t *testing.T, sys *system.System, found *figures) {
	t.Helper()
	before := resident(t, sys.NATSPID())
	ctx, cancel := context.WithTimeout(t.Context(), readFor)
	defer cancel()
	var mu sync.Mutex
	var took []time.Duration
	var reading sync.WaitGroup
	ticker := time.NewTicker(time.Second / readsASecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
			reading.Go(func() {
				one := get(t, sys.URL()+"/v1/deliberations/"+id(rand.IntN(backlog/2)))
				mu.Lock()
				defer mu.Unlock()
				took = append(took, one)
			})
		}
	}
	reading.Wait()
	middle := median(took)
	found.addf(fmt.Sprintf("%d status reads a second of old deliberations: median, slowest of %d", readsASecond, len(took)), "%s, %s",
		middle.Round(100*time.Microsecond), took[len(took)-1].Round(time.Millisecond))
	found.addf("nats-server: memory before and after them", "%d MB, %d MB", before>>20, resident(t, sys.NATSPID())>>20)
}
