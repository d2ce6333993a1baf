package journal_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// TestAcceptWithoutALook: publishing works, and the stream's state is not told.
// The last one counts for a minute.
func TestAcceptWithoutALook(t *testing.T) {
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
		j.SeeRoom(state, ago)
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
