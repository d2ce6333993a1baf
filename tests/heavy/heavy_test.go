package heavy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/system"
)

// stored is how many large deliberations the journal holds before.
const stored = 100

// serve starts the server in a pod, on a journal of large deliberations: some
// of their names are longer than what is taken today.
func serve(t *testing.T, p *pod) *system.System {
	t.Helper()
	sys := system.Served(t, system.Options{Wrap: p.wrapServer()})
	events := journaltest.Undeployed(t, journal.Settings{URL: sys.NATSURL()})
	for i := range stored {
		record := journaltest.Record(fmt.Sprintf("large-%d", i), 1, 3600)
		record.Request.TaskDescription = strings.Repeat("d", 600_000)
		record.TaskId = strings.Repeat("t", 350_000)
		record.Request.TaskId = "t"
		if standing, err := events.Accept(t.Context(), record, ""); err != nil || standing != nil {
			t.Fatal(standing, err)
		}
	}
	sys.Submit(t, &pb.ExecuteDeliberationRequest{TaskId: "t", TaskDescription: "d", Role: "r", DeliberationId: "quiet", Agents: []*pb.Agent{{Id: "a"}}})
	return sys
}

// TestHostileCallersHurtNobody: in the memory of a function's pod, under all
// attacks at once, whoever asks as the contract says gets every answer.
func TestHostileCallersHurtNobody(t *testing.T) {
	p := newPod(t, podBytes)
	sys := serve(t, p)
	target := newTarget(sys.URL())
	all := attacks(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var attacking sync.WaitGroup
	for _, one := range all {
		attacking.Go(func() { one.run(ctx, target) })
	}
	polite := &caller{url: sys.URL(), client: &http.Client{Timeout: 30 * time.Second}}
	polite.expect(t, http.MethodGet, "/metrics", "", fmt.Sprintf("go_gc_gomemlimit_bytes %g\n", float64(podBytes*9/10)))
	for i := 0; ctx.Err() == nil; i++ {
		polite.ask(t, i)
	}
	stop()
	attacking.Wait()
	took := peak(t, sys.ServerPID())
	t.Logf("the server's peak is %d MB; the kernel has killed %s times; the polite caller got %d answers, had to repeat %d times, waited %v at most; the others: %s",
		took>>20, p.killed(), polite.answers, polite.repeats, polite.longest.Round(time.Millisecond), target.counts())
	if took > podBytes || p.killed() != "0" {
		t.Errorf("the server took %d MB, and was killed %s times", took>>20, p.killed())
	}
	if cut, _ := target.answered.Load(slowBodies + " cut"); cut == nil {
		t.Error("no slow body was cut within a minute")
	}
	if polite.answers < 20 {
		t.Errorf("the polite caller got %d answers alone", polite.answers)
	}
}

// caller asks as the contract says: what is refused with 429 or 503, or cut, is
// sent again.
type caller struct {
	url              string
	client           *http.Client
	answers, repeats int
	longest          time.Duration
}

// ask submits a deliberation, and asks for what everybody asks for.
func (c *caller) ask(t *testing.T, i int) {
	t.Helper()
	id := fmt.Sprintf("polite-%d", i)
	submission := fmt.Sprintf(`{"task_id":"t","task_description":"d","role":"r","agents":[{"id":"a"}],"deliberation_id":%q}`, id)
	c.expect(t, http.MethodPost, "/v1/deliberations", submission, id)
	c.expect(t, http.MethodGet, "/v1/deliberations/"+id, "", `"queued"`)
	c.expect(t, http.MethodGet, "/v1/deliberations?page_size=5", "", "deliberation_id")
	c.expect(t, http.MethodGet, "/v1/stats", "", "total_deliberations")
	c.expect(t, http.MethodPost, "/v1/deliberations/"+id+":cancel", "{}", `"cancelled"`)
}

func (c *caller) expect(t *testing.T, method, path, body, want string) {
	t.Helper()
	started := time.Now()
	for ; time.Since(started) < time.Minute; c.repeats++ {
		status, got, pause := c.once(t, method, path, body)
		if status/100 == 2 && strings.Contains(got, want) {
			c.answers++
			c.longest = max(c.longest, time.Since(started))
			return
		}
		if status != 0 && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
			t.Errorf("%s %s is answered %d %.300s", method, path, status, got)
			return
		}
		time.Sleep(pause)
	}
	t.Errorf("%s %s is not answered within a minute", method, path)
}

// once returns 0 where the connection was cut.
func (c *caller) once(t *testing.T, method, path, body string) (status int, said string, pause time.Duration) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := c.client.Do(r)
	if err != nil {
		return 0, err.Error(), 100 * time.Millisecond
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error(), 100 * time.Millisecond
	}
	seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
	return response.StatusCode, string(answer), time.Duration(seconds) * time.Second
}

// rows are the attacks' rows in docs/limits.md, with the peak in MB that each had
// before there were limits (commit a92c77a, without a memory limit).
var rows = map[string]struct{ what, before string }{
	"gzip to health":            {"20 × 521 kB of gzip (512 MB of zeros) to health", "3,459"},
	"gzip to reflection":        {"the same to reflection", "4,876"},
	"gzip to Connect":           {"the same to health over Connect", "6,844"},
	"agents in protobuf":        {"60 × 8 kB of gzip: 4 million empty agents in protobuf, 8 at once", "3,073"},
	"agents in JSON":            {"40 × 8 MiB of JSON: empty agents, to REST", "1,622"},
	"agents in an event":        {"40 × 1 MiB of empty agents in protobuf, in base64 in an event", "613"},
	"agents in a binary event":  {"the same as the body of an event", "881"},
	"a batch of nothings":       {"20 × a batch of 2.8 million empty events", "777"},
	"a long placeholder":        {"40 × an invalid placeholder of 1 MB", "80"},
	"lists":                     {"32 lists of 100 stored deliberations of 1 MB, 8 at once", "699"},
	"batches of lists":          {"batches of ten such lists, 3 at once", "101 ¹"},
	"statuses":                  {"300 statuses of 1 MB, 64 at once", "194"},
	"large submissions":         {"256 submissions of 1 MB at once", "436"},
	"streams":                   {"4,000 streams", "232"},
	"streams that are not read": {"100 streams of 1 MB that are not read", "–"},
	"idle connections":          {"2,000 idle connections", "46"},
	"slow bodies":               {"200 slow bodies", "35"},
}

// TestFigures prints the peak of the server under each attack alone: without a
// memory limit, and in a pod.
func TestFigures(t *testing.T) {
	if os.Getenv("HEAVY_FIGURES") == "" {
		t.Skip("HEAVY_FIGURES=1 measures them")
	}
	var table, answers strings.Builder
	for _, one := range attacks(t) {
		row, ok := rows[one.name]
		if !ok {
			t.Fatalf("%s has no row", one.name)
		}
		fmt.Fprintf(&table, "| %s | %s |", row.what, row.before)
		for _, size := range []int{8 << 30, podBytes} {
			t.Run(fmt.Sprint(one.name, " in ", size>>20, " MiB"), func(t *testing.T) {
				p := newPod(t, size)
				took, said := measure(t, p, one)
				fmt.Fprintf(&table, " %d |", took>>20)
				fmt.Fprintf(&answers, "%s: killed %s times; %s\n", t.Name(), p.killed(), said)
			})
		}
		table.WriteString("\n")
	}
	t.Logf("\n\n| what callers send | before | now, without a memory limit | now, in 256 MiB |\n|---|---|---|---|\n%s\n%s", table.String(), answers.String())
}

// measure returns the server's peak under an attack, and how it answered.
func measure(t *testing.T, p *pod, one attack) (took int, answered string) {
	t.Helper()
	sys := serve(t, p)
	target := newTarget(sys.URL())
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Second)
	defer stop()
	one.run(ctx, target)
	return peak(t, sys.ServerPID()), target.counts()
}
