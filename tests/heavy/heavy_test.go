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
	sys := system.Served(t, system.Options{Wrap: p.wrap()})
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

// TestFigures prints what each attack takes alone.
func TestFigures(t *testing.T) {
	if os.Getenv("HEAVY_FIGURES") == "" {
		t.Skip("HEAVY_FIGURES=1 measures them")
	}
	figures := make(map[string]string)
	for _, one := range attacks(t) {
		t.Run(one.name, func(t *testing.T) {
			p := newPod(t, 8<<30)
			sys := serve(t, p)
			target := newTarget(sys.URL())
			ctx, stop := context.WithTimeout(t.Context(), 15*time.Second)
			defer stop()
			before := peak(t, sys.ServerPID())
			one.run(ctx, target)
			figures[one.name] = fmt.Sprintf("%d MB before, peak %d MB; %s", before>>20, peak(t, sys.ServerPID())>>20, target.counts())
		})
	}
	for name, figure := range figures {
		t.Logf("%s: %s", name, figure)
	}
}
