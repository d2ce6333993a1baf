package journal_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
	"rayexecutor/journal"
	"rayexecutor/journal/journaltest"
)

// streams names the streams that a server has.
func streams(t *testing.T, js jetstream.JetStream) []string {
	t.Helper()
	lister := js.StreamNames(t.Context())
	var names []string
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// TestSharedListenerStreams announces into the fleet's own stream, where it
// has one that covers the announcements.
func TestSharedListenerStreams(t *testing.T) {
	t.Parallel()
	for name, fleet := range map[string][]jetstream.StreamConfig{
		"the fleet's":   {{Name: "ORCHESTRATOR_EVENTS", Subjects: []string{"orchestration.>"}}},
		"with our name": {{Name: journal.Announcements, Subjects: []string{"orchestration.deliberation.*", "orchestration.task.*"}}},
		"discard new":   {{Name: "FLEET", Subjects: []string{"orchestration.>"}, Discard: jetstream.DiscardNew, MaxMsgs: 10}},
		"several": {
			{Name: "GOOD", Subjects: []string{"orchestration.deliberation.completed"}},
			{Name: "BAD", Subjects: []string{"orchestration.*.failed", "orchestration.deliberation.cancelled"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := journaltest.Start(t)
			_, js := journaltest.Dial(t, s.URL)
			for _, config := range fleet {
				must[jetstream.Stream](t)(js.CreateStream(t.Context(), config))
			}
			j := journaltest.Connect(t, s.URL)
			if err := j.Deploy(t.Context(), journaltest.Layout()); err != nil {
				t.Fatalf("again: %v", err)
			}
			subject := events.AnnouncementSubject(deliberation.Completed)
			for range 2 {
				if err := j.Announce(t.Context(), subject, "d1.done", nil, []byte("it ended")); err != nil {
					t.Fatal(err)
				}
			}
			if got := journaltest.Messages(t, s.URL, fleet[0].Name, subject); len(got) != 1 {
				t.Errorf("%d announcements in %s, want 1", len(got), fleet[0].Name)
			}
			there := must[jetstream.Stream](t)(js.Stream(t.Context(), fleet[0].Name)).CachedInfo().Config
			if !slices.Equal(there.Subjects, fleet[0].Subjects) || there.MaxAge != 0 {
				t.Errorf("deploy has changed what is not ours: %+v", there)
			}
			if fleet[0].Name != journal.Announcements && slices.Contains(streams(t, js), journal.Announcements) {
				t.Error("there is a stream of ours beside it")
			}
		})
	}
}

// TestConflictingStreams makes nothing where it could not make it all.
func TestConflictingStreams(t *testing.T) {
	t.Parallel()
	announcements := []string{"orchestration.>"}
	for name, test := range map[string]struct {
		there jetstream.StreamConfig
		full  bool
		says  []string // besides the stream's name and subjects
	}{
		"the journal's":       {there: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"deliberation.>"}}, says: []string{journal.Stream, "another NATS account"}},
		"a part of it":        {there: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"deliberation.done.failed.*", "x"}}, says: []string{journal.Stream}},
		"a journal elsewhere": {there: jetstream.StreamConfig{Name: "OLD_" + journal.Stream, Subjects: []string{events.JournalSubjects}}, says: []string{"another NATS account"}},
		"the relay's":         {there: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"ray-executor.>"}}, says: []string{journal.UndeliveredStream}},
		"objects":             {there: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"$O.>"}}, says: []string{journal.Results}},
		"values":              {there: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"$KV.*.x", "$KV.*.summary"}}, says: []string{journal.Statistics}},
		"some announcements":  {there: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"orchestration.deliberation.failed"}}, says: []string{"completed", "cancelled", "add the subjects"}},
		"beside them":         {there: jetstream.StreamConfig{Name: "FLEET", Subjects: []string{"orchestration.deliberation.started"}}, says: []string{"add the subjects"}},
		"no acks":             {there: jetstream.StreamConfig{Name: "FLEET", Subjects: announcements, NoAck: true}, says: []string{"no_ack"}},
		"small messages":      {there: jetstream.StreamConfig{Name: "FLEET", Subjects: announcements, MaxMsgSize: 1000}, says: []string{"max_msg_size"}},
		"full":                {there: jetstream.StreamConfig{Name: "FLEET", Subjects: announcements, Discard: jetstream.DiscardNew, MaxMsgs: 1}, full: true, says: []string{"is full"}},
		"sealed":              {there: jetstream.StreamConfig{Name: "FLEET", Subjects: announcements, Sealed: true}, says: []string{"sealed"}},
		"one a subject": {
			there: jetstream.StreamConfig{Name: "FLEET", Subjects: announcements, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1},
			says:  []string{"discard_new_per_subject"},
		},
		"our name":       {there: jetstream.StreamConfig{Name: journal.Stream, Subjects: []string{"lunch.orders"}}, says: []string{"NATS_PREFIX"}},
		"another's name": {there: jetstream.StreamConfig{Name: journal.Announcements, Subjects: []string{"lunch.orders"}}, says: []string{"NATS_PREFIX"}},
		"in memory":      {there: jetstream.StreamConfig{Name: journal.Stream, Subjects: []string{events.JournalSubjects}, Storage: jetstream.MemoryStorage}, says: []string{"stored in memory", "delete it"}},
		"a work queue":   {there: jetstream.StreamConfig{Name: journal.Stream, Subjects: []string{events.JournalSubjects}, Retention: jetstream.WorkQueuePolicy}, says: []string{"work queue", "delete it"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := journaltest.Start(t)
			_, js := journaltest.Dial(t, s.URL)
			sealed := test.there.Sealed
			test.there.Sealed = false
			must[jetstream.Stream](t)(js.CreateStream(t.Context(), test.there))
			if test.full {
				must[*jetstream.PubAck](t)(js.Publish(t.Context(), "orchestration.x", nil))
			}
			if test.there.Sealed = sealed; sealed {
				must[jetstream.Stream](t)(js.UpdateStream(t.Context(), test.there))
			}
			err := deployTo(t, journal.Settings{URL: s.URL}, func(layout *journal.Layout) { layout.Relay = true })
			if err == nil || !journal.Permanent(err) {
				t.Fatalf("deploy: %v", err)
			}
			for _, says := range append(test.says, append(test.there.Subjects, "the stream "+test.there.Name, "has created nothing")...) {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%q does not say %q", err, says)
				}
			}
			for _, not := range []string{"JOURNAL_MAX_BYTES", "is it up"} {
				if strings.Contains(err.Error(), not) {
					t.Errorf("%q says %q", err, not)
				}
			}
			if there := streams(t, js); !slices.Equal(there, []string{test.there.Name}) {
				t.Errorf("there are the streams %v", there)
			}
		})
	}
}

// TestDeployOverOlderVersion is updated, also after a change of its description.
func TestDeployOverOlderVersion(t *testing.T) {
	t.Parallel()
	w := setup(t)
	_, js := journaltest.Dial(t, w.server.URL)
	w.accept(t, "d1", 1)
	config := must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream)).CachedInfo().Config
	config.Description, config.MaxAge, config.Subjects = "edited", 0, append(config.Subjects, "deliberation.later.*.*.*")
	must[jetstream.Stream](t)(js.UpdateStream(t.Context(), config))
	layout := journaltest.Layout()
	if err := w.Deploy(t.Context(), layout); err != nil {
		t.Fatal(err)
	}
	if got := must[jetstream.Stream](t)(js.Stream(t.Context(), journal.Stream)).CachedInfo().Config; got.MaxAge != layout.MaxAge {
		t.Errorf("the journal is %+v", got)
	}
	w.wantBoth(t, "d1", status("queued"))
}
