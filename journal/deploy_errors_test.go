package journal_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
	pb "rayexecutor/proto/ray_executor/v1"
)

// large is a request with a description of so many bytes.
func large(id string, bytes int) *pb.DeliberationRequested {
	record := journaltest.Record(id, 2, 300)
	record.Request.TaskDescription = strings.Repeat("x", bytes)
	return record
}

// wantEnd ends a deliberation that was accepted, with results of so many bytes,
// and reads them back.
func (w world) wantEnd(t *testing.T, id string, bytes int) {
	t.Helper()
	bulk := strings.Repeat("r", bytes/2)
	end := completed(id, journaltest.Result(0, bulk), journaltest.Result(1, bulk))
	if won, err := w.End(t.Context(), id, end, ""); err != nil || !won {
		t.Errorf("what was accepted does not end: %v, %v", won, err)
	}
	w.wantBoth(t, id, status("completed", bulk, bulk))
}

func TestSmallPayload(t *testing.T) {
	t.Parallel()
	server := journaltest.Start(t, func(options *server.Options) { options.MaxPayload = 64 << 10 })
	w := world{server: server, Journal: journaltest.Connect(t, server.URL), worker: journaltest.NewWorker(t, server.URL)}
	record := large("d1", 600<<10)
	must[*pb.DeliberationRequested](t)(w.Accept(t.Context(), record, ""))
	wantEqual(t, w.history(t, "d1").Requested, record)
	w.wantEnd(t, "d1", 600<<10)

	err := w.Announce(t.Context(), events.AnnouncementSubject(deliberation.Completed), "d1.done", nil, make([]byte, 100<<10))
	if refused := wantCode(t, err, deliberation.TooLarge); !strings.Contains(refused.Message, "max_payload") {
		t.Errorf("%q does not say what to do", refused.Message)
	}
}

func TestSmallStreamMessages(t *testing.T) {
	t.Parallel()
	w := setup(t)
	w.accept(t, "d1", 2)
	_, js := journaltest.Dial(t, w.server.URL)
	stream := must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream))
	config := stream.CachedInfo().Config
	config.MaxMsgSize = 8 << 10
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), config))
	w.wantEnd(t, "d1", 100<<10)

	// A message without a field to offload is refused.
	record := journaltest.Record("d2", 1, 300)
	record.TaskId = strings.Repeat("x", 20<<10)
	_, err := w.Accept(t.Context(), record, "")
	if refused := wantCode(t, err, deliberation.TooLarge); !strings.Contains(refused.Message, "max_msg_size") {
		t.Errorf("%q does not say what to do", refused.Message)
	}
	w.wantBoth(t, "d2", status("not_found"))
}

// The server's own limit, where the journal has none.
func TestServerStoreFull(t *testing.T) {
	t.Parallel()
	server := journaltest.Start(t, func(options *server.Options) {
		options.JetStreamMaxStore = 10 << 20 // 8 MiB of them are for heartbeats
	})
	w := world{server: server, Journal: journaltest.Connect(t, server.URL), worker: journaltest.NewWorker(t, server.URL)}
	accepted, err := w.fill(t, 100<<10)
	if refused := wantCode(t, err, deliberation.LimitReached); !strings.Contains(refused.Message, "JOURNAL_MAX_BYTES") || refused.RetryAfter <= 0 {
		t.Errorf("refused with %+v", refused)
	}
	if accepted < 10 {
		t.Errorf("accepted are %d", accepted)
	}
	if histories := w.messages(t, events.RequestedSubjects); histories != accepted {
		t.Errorf("%d requests exist, want %d", histories, accepted)
	}
}
