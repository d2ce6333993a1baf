package relay_test

import (
	"cmp"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	"rayexecutor/keeper/keepertest"
	"rayexecutor/keeper/relay"
	pb "rayexecutor/proto/ray_executor/v1"
	"rayexecutor/tests/await"
	"rayexecutor/tests/freeport"
)

// posted is a request as the sink has seen it.
type posted struct {
	header http.Header
	body   string
	at     time.Time
}

func (p posted) id() string { return p.header.Get("Ce-Id") }

// sink records what is posted, and answers as its test wants it.
type sink struct {
	*httptest.Server
	posts chan posted

	mu     sync.Mutex
	answer func(w http.ResponseWriter, attempt int) // by event, from 1
	seen   map[string]int
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{posts: make(chan posted, 1000), seen: make(map[string]int)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	post := posted{header: r.Header, body: string(body), at: time.Now()}
	s.mu.Lock()
	s.seen[post.id()]++
	answer, attempt := s.answer, s.seen[post.id()]
	s.mu.Unlock()
	if answer != nil {
		answer(w, attempt)
	}
	s.posts <- post
}

func (s *sink) answers(answer func(w http.ResponseWriter, attempt int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// attempts says how often each event was posted.
func (s *sink) attempts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[string]int)
	for id, n := range s.seen {
		seen[id] = n
	}
	return seen
}

func relayed(layout *journal.Layout) { layout.Relay = true }

// setupRelay is setup with what deploy makes for a relay.
func setupRelay(t *testing.T) world {
	t.Helper()
	w := setup(t)
	w.Redeploy(t, relayed)
	return w
}

func (w world) newRelay(t *testing.T, options relay.SinkOptions) *relay.Relay {
	t.Helper()
	target, err := relay.NewSink(options)
	if err != nil {
		t.Fatal(err)
	}
	return relay.New(w.Connect(t), target, relay.Options{Patience: time.Hour, Layout: journaltest.Layout()}, keepertest.Quiet())
}

// relay runs a relay until the test ends or stop is called.
func (w world) relay(t *testing.T, options relay.SinkOptions) (stop func()) {
	t.Helper()
	return keepertest.Run(t, w.newRelay(t, options))
}

func (w world) undelivered(t *testing.T) []journal.Undelivered {
	t.Helper()
	var list []journal.Undelivered
	for one, err := range w.ReadUndelivered(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, one)
	}
	return list
}

// awaitUndelivered waits until so many undelivered ends are stored.
func (w world) awaitUndelivered(t *testing.T, n int) []journal.Undelivered {
	t.Helper()
	var list []journal.Undelivered
	await.NoError(t, "the list of undelivered ends", func() error {
		if list = w.undelivered(t); len(list) != n {
			return fmt.Errorf("%d are stored, not %d", len(list), n)
		}
		return nil
	})
	return list
}

// settled waits until the relay owes nothing.
func (w world) settled(t *testing.T) {
	t.Helper()
	await.NoError(t, "an idle relay", func() error {
		consumer, err := w.JS.Consumer(t.Context(), journal.Stream, "relay")
		if err != nil {
			return err
		}
		if info := consumer.CachedInfo(); info.NumPending > 0 || info.NumAckPending > 0 {
			return fmt.Errorf("%d wait, %d are under way", info.NumPending, info.NumAckPending)
		}
		return nil
	})
}

func TestRelay(t *testing.T) {
	t.Parallel()
	w, s := setupRelay(t), newSink(t)
	w.relay(t, relay.SinkOptions{URL: s.URL + "/ns/default", Extensions: map[string]string{"team": "blau grün"}})
	w.Submit(t, "d1", 2, 300)
	w.Complete(t, "d1", journaltest.Result(0, "yes"))
	post := keepertest.Next(t, s.posts)
	header := make(map[string]string)
	for name := range post.header {
		if strings.HasPrefix(name, "Ce-") || name == "Content-Type" {
			header[name] = post.header.Get(name)
		}
	}
	want := map[string]string{
		"Ce-Specversion": "1.0", "Ce-Id": "d1.done", "Ce-Type": "ray_executor.v1.DeliberationCompleted", "Ce-Source": events.Source,
		"Ce-Subject": "d1", "Ce-Time": w.Status(t, "d1").GetEndedAt().AsTime().Format(time.RFC3339Nano),
		"Ce-Traceparent": keepertest.Trace, "Ce-Team": "blau%20gr%C3%BCn", "Content-Type": "application/json",
	}
	if fmt.Sprint(header) != fmt.Sprint(want) {
		t.Errorf("headers\ngot  %v\nwant %v", header, want)
	}
	const body = `{"deliberation_id":"d1","task_id":"task-d1","results":[{"agent_id":"a0","proposal":"yes","reasoning":"","score":0,"metadata":{"status":"completed"}}],"results_ref":""}`
	if post.body != body {
		t.Errorf("body\ngot  %s\nwant %s", post.body, body)
	}
	w.settled(t)
	if n := s.attempts()["d1.done"]; n != 1 {
		t.Errorf("posted %d times", n)
	}
}

func TestRelayOverTLS(t *testing.T) {
	t.Parallel()
	w, s := setupRelay(t), newSink(t)
	secure := httptest.NewTLSServer(s)
	defer secure.Close()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	defer w.relay(t, relay.SinkOptions{URL: secure.URL, CACerts: string(authority)})()
	w.Complete(t, "d1")
	if post := keepertest.Next(t, s.posts); post.id() != "d1.done" {
		t.Errorf("posted %s", post.id())
	}
}

func TestRelayTriesAgain(t *testing.T) {
	t.Parallel()
	w, s := setupRelay(t), newSink(t)
	s.answers(func(rw http.ResponseWriter, attempt int) {
		if attempt == 1 {
			rw.Header().Set("Retry-After", "1")
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	w.relay(t, relay.SinkOptions{URL: s.URL})
	w.Complete(t, "d1")
	first, second := keepertest.Next(t, s.posts), keepertest.Next(t, s.posts)
	if waited := second.at.Sub(first.at); waited < time.Second {
		t.Errorf("asked again after %s", waited)
	}
	if first.body != second.body || first.header.Get("Ce-Time") != second.header.Get("Ce-Time") || second.id() != "d1.done" {
		t.Errorf("the second is another event: %v %v", first, second)
	}
	w.settled(t)
	if len(w.undelivered(t)) > 0 {
		t.Error("it is stored though it was accepted")
	}
}

func TestWhatTheSinkRefusesIsKept(t *testing.T) {
	t.Parallel()
	w, s := setupRelay(t), newSink(t)
	refuse := func(rw http.ResponseWriter, _ int) {
		rw.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(rw, "no such\ttype\r\nand more")
	}
	s.answers(refuse)
	options := relay.SinkOptions{URL: s.URL}
	w.relay(t, options)
	w.Complete(t, "d1", journaltest.Result(0, "yes"))
	w.Complete(t, "d2", journaltest.Result(0, "yes"))
	list := w.awaitUndelivered(t, 2)
	slices.SortFunc(list, func(a, b journal.Undelivered) int { return cmp.Compare(a.ID, b.ID) })
	if one := list[0]; one.ID != "d1" || one.Reason != "the sink answered 400 Bad Request: no such type" || one.Attempt != 1 ||
		!one.Time.Equal(w.Status(t, "d1").GetEndedAt().AsTime()) || time.Since(one.At) > time.Minute {
		t.Errorf("stored as %+v", one)
	}
	first := keepertest.Next(t, s.posts)
	keepertest.Next(t, s.posts)

	refused := w.retry(t, options, "d1")
	if refused["d1"] == nil || len(refused) != 1 || len(w.undelivered(t)) != 2 {
		t.Errorf("still refused: %v, %d stored", refused, len(w.undelivered(t)))
	}
	keepertest.Next(t, s.posts)
	s.answers(nil)
	if refused := w.retry(t, options, "d1"); len(refused) != 1 || refused["d1"] != nil {
		t.Errorf("now taken: %v", refused)
	}
	if left := w.undelivered(t); len(left) != 1 || left[0].ID != "d2" {
		t.Errorf("left is %v", left)
	}
	if post := keepertest.Next(t, s.posts); first.id() == "d1.done" && (post.body != first.body || post.header.Get("Ce-Time") != first.header.Get("Ce-Time") || post.header.Get("Ce-Traceparent") != keepertest.Trace) {
		t.Errorf("sent again as %v, before as %v", post, first)
	}
	if refused := w.retry(t, options, ""); len(refused) != 1 || refused["d2"] != nil || len(w.undelivered(t)) != 0 {
		t.Errorf("all: %v", refused)
	}
	if results := w.retry(t, options, "d3"); len(results) != 0 {
		t.Errorf("one that is not stored: %v", results)
	}
}

func (w world) retry(t *testing.T, options relay.SinkOptions, id string) map[string]error {
	t.Helper()
	results := make(map[string]error)
	err := w.newRelay(t, options).Resend(t.Context(), id, func(one journal.Undelivered, refused error) { results[one.ID] = refused })
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// TestRelayLosesNothing has a sink that is away, then fails every second time,
// and relays that are stopped and started meanwhile.
func TestRelayLosesNothing(t *testing.T) {
	t.Parallel()
	w, s := setupRelay(t), newSink(t)
	address := freeport.Address(t) // nothing listens on it yet
	options := relay.SinkOptions{URL: "http://" + address}
	stop := w.relay(t, options)
	const n = 30
	for i := range n / 2 {
		w.Complete(t, fmt.Sprint("d", i))
	}
	await.NoError(t, "the relay's deliveries", func() error { return w.handedOver(t, n/2) })
	stop()
	s.answers(func(rw http.ResponseWriter, attempt int) {
		if attempt == 1 {
			rw.WriteHeader(http.StatusInternalServerError)
		}
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	go server.Serve(listener)
	defer server.Close()
	stop = w.relay(t, options)
	for i := n / 2; i < n; i++ {
		w.Complete(t, fmt.Sprint("d", i))
	}
	keepertest.Next(t, s.posts)
	stop()
	defer w.relay(t, options)()
	w.settled(t)
	for i := range n {
		if got := s.attempts()[fmt.Sprintf("d%d.done", i)]; got < 2 {
			t.Errorf("d%d was posted %d times, and refused the first time", i, got)
		}
	}
	if list := w.undelivered(t); len(list) > 0 {
		t.Errorf("%d were given up", len(list))
	}
}

// handedOver is nil once the relay has been handed so many ends.
func (w world) handedOver(t *testing.T, n uint64) error {
	t.Helper()
	consumer, err := w.JS.Consumer(t.Context(), journal.Stream, "relay")
	if err != nil {
		return err
	}
	if got := consumer.CachedInfo().Delivered.Stream; got < n {
		return fmt.Errorf("%d of %d were handed over", got, n)
	}
	return nil
}

// TestWhatAKilledRelayHeld comes to the next one.
func TestWhatAKilledRelayHeld(t *testing.T) {
	t.Parallel()
	w, s := setup(t), newSink(t)
	consumer, err := w.JS.CreateConsumer(t.Context(), journal.Stream, jetstream.ConsumerConfig{
		Durable: "relay", FilterSubject: events.DoneSubjects, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Complete(t, "d1")
	if _, err := consumer.Next(); err != nil { // and dies with it
		t.Fatal(err)
	}
	defer w.relay(t, relay.SinkOptions{URL: s.URL})()
	if post := keepertest.Next(t, s.posts); post.id() != "d1.done" {
		t.Errorf("posted %s", post.id())
	}
	w.settled(t)
}

func TestTwoRelaysShare(t *testing.T) {
	t.Parallel()
	w, s := setup(t), newSink(t)
	options := relay.SinkOptions{URL: s.URL}
	// Nobody has deployed anything for them: they make it.
	for range 2 {
		defer w.relay(t, options)()
	}
	await.NoError(t, "the relay's deliveries", func() error { return w.handedOver(t, 0) })
	const n = 60
	for i := range n {
		w.Complete(t, fmt.Sprint("d", i))
	}
	await.NoError(t, "the relay's deliveries", func() error { return w.handedOver(t, n) }) // the server reports its count with a delay
	w.settled(t)
	if got := s.attempts(); len(got) != n {
		t.Errorf("%d of %d arrived", len(got), n)
	}
	for id, times := range s.attempts() {
		if times != 1 {
			t.Errorf("%s was posted %d times", id, times)
		}
	}
}

func TestASlowSinkHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	w, s := setupRelay(t), newSink(t)
	release := make(chan struct{})
	entered := make(chan struct{}, 100)
	s.answers(func(http.ResponseWriter, int) { entered <- struct{}{}; <-release })
	heard := w.announcements(t)
	w.relay(t, relay.SinkOptions{URL: s.URL})
	for i := range 5 {
		w.Complete(t, fmt.Sprint("d", i))
	}
	for range 5 {
		keepertest.Next(t, entered)
	}
	for range 5 {
		keepertest.Next(t, heard)
	}
	close(release)
	w.settled(t)
}

func TestRelayOfLargeResults(t *testing.T) {
	t.Parallel()
	w, s := setupRelay(t), newSink(t)
	s.answers(func(rw http.ResponseWriter, attempt int) {
		if attempt == 1 {
			rw.WriteHeader(http.StatusForbidden)
		}
	})
	options := relay.SinkOptions{URL: s.URL}
	w.relay(t, options)
	w.Complete(t, "json", journaltest.Result(0, strings.Repeat(`"`, 600<<10)))   // too large in JSON only
	w.Complete(t, "proto", journaltest.Result(0, strings.Repeat(`x`, 1200<<10))) // too large for the journal
	w.awaitUndelivered(t, 2)
	if refused := w.retry(t, options, ""); len(refused) != 2 || refused["json"] != nil || refused["proto"] != nil {
		t.Errorf("sent again: %v", refused)
	}
	for range 4 {
		var data pb.DeliberationCompleted
		if err := events.UnmarshalJSON([]byte(keepertest.Next(t, s.posts).body), &data); err != nil {
			t.Fatal(err)
		}
		if len(data.GetResults()) != 0 || !strings.HasPrefix(data.GetResultsRef(), "sha256-") {
			t.Errorf("%s with %d results and ref %q", data.GetDeliberationId(), len(data.GetResults()), data.GetResultsRef())
		}
	}
}

// TestANewRelayStartsWithWhatComes: a sink does not expect the last week.
func TestANewRelayStartsWithWhatComes(t *testing.T) {
	t.Parallel()
	w, s := setup(t), newSink(t)
	w.Complete(t, "before")
	w.Redeploy(t, relayed)
	w.Complete(t, "after")
	defer w.relay(t, relay.SinkOptions{URL: s.URL})()
	if post := keepertest.Next(t, s.posts); post.id() != "after.done" {
		t.Errorf("posted %s", post.id())
	}
	w.Redeploy(t, func(*journal.Layout) {}) // whoever deploys may not know of the sink
	w.Complete(t, "later")
	if post := keepertest.Next(t, s.posts); post.id() != "later.done" {
		t.Errorf("posted %s", post.id())
	}
}
