package journal_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// TestAcceptWithStaleCapacity: publishing works, and the stream's state cannot be read.
// The last one counts for a minute.
func TestAcceptWithStaleCapacity(t *testing.T) {
	t.Parallel()
	s := journaltest.Start(t, func(options *server.Options) {
		options.Users = []*server.User{
			{Username: "all", Password: "pw"},
			{Username: "deaf", Password: "pw", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.INFO.>"}},
			}},
		}
	})
	as := func(user string) string { return strings.Replace(s.URL, "://", "://"+user+":pw@", 1) }
	journaltest.Connect(t, as("all"))
	j := journaltest.Undeployed(t, journal.Settings{URL: as("deaf"), Wait: time.Second})
	state := &jetstream.StreamInfo{Config: jetstream.StreamConfig{MaxBytes: 1000}, State: jetstream.StreamState{Bytes: 100}}
	accept := func(id string, ago time.Duration) error {
		j.SetCapacity(state, ago)
		_, err := j.Accept(t.Context(), journaltest.Record(id, 1, 300), "")
		return err
	}
	if err := accept("d1", 10*time.Second); err != nil {
		t.Errorf("with room ten seconds ago: %v", err)
	}
	wantCode(t, accept("d2", 2*time.Minute), deliberation.Unavailable)
	state.State.Bytes = 900
	wantCode(t, accept("d3", 10*time.Second), deliberation.LimitReached)
}

// TestTooManyMessages sets a limit below what is there: nothing is evicted, what
// was accepted ends, and new requests are refused.
func TestTooManyMessages(t *testing.T) {
	t.Parallel()
	w := setup(t)
	const n = 50
	for i := range n {
		w.accept(t, fmt.Sprint("d", i), 1)
	}
	layout := journaltest.Layout()
	layout.MaxMessages = n / 2
	if err := w.Deploy(t.Context(), layout); err != nil {
		t.Fatal(err)
	}
	if got := w.messages(t, events.RequestedSubjects); got != n {
		t.Errorf("%d of %d are left", got, n)
	}
	w.agent(t, "d0", 0, "yes")
	must[bool](t)(w.End(t.Context(), "d0", completed("d0"), ""))
	w.SetCapacity(&jetstream.StreamInfo{}, time.Hour)
	_, err := w.Accept(t.Context(), journaltest.Record("new", 1, 300), "")
	if refused := wantCode(t, err, deliberation.LimitReached); !strings.Contains(refused.Message, "JOURNAL_MAX_MESSAGES") {
		t.Errorf("refused with %q", refused.Message)
	}
	layout.MaxMessages = 2 * n
	if err := w.Deploy(t.Context(), layout); err != nil {
		t.Fatal(err)
	}
	w.SetCapacity(&jetstream.StreamInfo{}, time.Hour)
	w.accept(t, "new", 1)
}

// TestObjectStoreWatermark fills the object store with requests: results
// retain half of it.
func TestObjectStoreWatermark(t *testing.T) {
	t.Parallel()
	w := setup(t, func(layout *journal.Layout) { layout.MaxBytes = 64 << 20 })
	var err error
	accepted := 0
	for ; err == nil && accepted < 12; accepted++ {
		record := journaltest.Record(fmt.Sprint("d", accepted), 1, 300)
		record.Request.TaskDescription = strings.Repeat(string(rune('a'+accepted)), deliberation.MaxRequestBytes-300)
		w.SetCapacity(&jetstream.StreamInfo{}, time.Hour)
		_, err = w.Accept(t.Context(), record, "")
	}
	if refused := wantCode(t, err, deliberation.LimitReached); !strings.Contains(refused.Message, "large requests") || accepted < 4 || accepted > 6 {
		t.Errorf("number %d is refused with %q", accepted, refused.Message)
	}
	w.accept(t, "small", 1)
}
