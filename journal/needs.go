package journal

import (
	"cmp"
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// need is a stream that a layout asks for; a bucket is a stream too.
type need struct {
	// what names it for people.
	what string
	// stream has at least the name, the subjects and the storage.
	stream jetstream.StreamConfig
	// make makes it, or updates its settings.
	make func(context.Context) error
	// kept are the subjects, without wildcards, that another stream may keep in
	// place of this one: whoever listens reads them wherever they are. None: only
	// this stream will do.
	kept []string
	// rest makes this stream for those of kept that no other stream has.
	rest bool
}

// needs lists all that a layout asks for, the journal first.
func (j *Journal) needs(layout Layout) []need {
	needs := []need{
		j.streamNeed(j.journalStream(layout)),
		j.announcementsNeed(layout),
		j.objectsNeed(jetstream.ObjectStoreConfig{
			Bucket: j.name(Results), Description: "What no message of the journal can hold, by digest.",
			TTL: layout.MaxAge + time.Hour, MaxBytes: resultsBytes(layout.MaxBytes), Storage: jetstream.FileStorage, Replicas: layout.Replicas,
		}),
		j.valuesNeed(jetstream.KeyValueConfig{
			Bucket: j.name(Statistics), Description: "The statistics' snapshot.",
			History: 1, Storage: jetstream.FileStorage, Replicas: layout.Replicas,
		}),
		j.valuesNeed(j.workersBucket(layout)),
		j.objectsNeed(jetstream.ObjectStoreConfig{
			// Without an age: what is in it waits for a person.
			Bucket: j.name(DeadLetterBucket), Description: "Deliberations that were given up: `ray-executor dead list`.",
			MaxBytes: deadLetterBytes(layout.MaxBytes), Storage: jetstream.FileStorage, Replicas: layout.Replicas,
		}),
	}
	if layout.AgentResponses {
		needs = append(needs, j.responsesNeed(layout))
	}
	if layout.Relay {
		needs = append(needs, j.streamNeed(j.undeliveredStream(layout)))
	}
	return needs
}

func (j *Journal) journalStream(layout Layout) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: j.name(Stream), Description: "The ray-executor's journal: every event of every deliberation.",
		Subjects: []string{events.JournalSubjects}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxAge: layout.MaxAge, MaxBytes: layout.MaxBytes, MaxMsgs: cmp.Or(layout.MaxMessages, -1), MaxMsgSize: maxMessageBytes,
		Replicas: layout.Replicas, AllowDirect: true,
	}
}

func (j *Journal) announcementsNeed(layout Layout) need {
	announcements := j.streamNeed(listenersStream(layout, j.name(Announcements),
		"What the Orchestrator hears of deliberations.", events.AnnouncementSubjects))
	for _, end := range []deliberation.State{deliberation.Completed, deliberation.Failed, deliberation.Cancelled} {
		announcements.kept = append(announcements.kept, events.AnnouncementSubject(end))
	}
	return announcements
}

func (j *Journal) responsesNeed(layout Layout) need {
	responses := j.streamNeed(listenersStream(layout, j.name(Responses), responsesDescription, events.ResponseSubjects))
	responses.kept = []string{events.ResponseCompleted, events.ResponseFailed}
	responses.rest = true
	return responses
}

// listenersStream keeps what others listen to.
func listenersStream(layout Layout, name, description, subject string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Description: description,
		Subjects: []string{subject}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxAge: layout.MaxAge, MaxBytes: announcementBytes(layout.MaxBytes), Duplicates: duplicateWindow,
		Replicas: layout.Replicas, AllowDirect: true,
	}
}

func (j *Journal) streamNeed(config jetstream.StreamConfig) need {
	return need{what: "stream " + config.Name, stream: config, make: func(ctx context.Context) error {
		_, err := j.js.CreateOrUpdateStream(ctx, config)
		return err
	}}
}

func (j *Journal) objectsNeed(config jetstream.ObjectStoreConfig) need {
	return need{
		what: "object store " + config.Bucket,
		stream: jetstream.StreamConfig{
			Name: objectStream(config.Bucket), Storage: config.Storage,
			Subjects: []string{"$O." + config.Bucket + ".C.>", "$O." + config.Bucket + ".M.>"},
		},
		make: func(ctx context.Context) error {
			_, err := j.js.CreateOrUpdateObjectStore(ctx, config)
			return err
		},
	}
}

func (j *Journal) valuesNeed(config jetstream.KeyValueConfig) need {
	return need{
		what: "bucket " + config.Bucket,
		stream: jetstream.StreamConfig{
			Name: bucketStream(config.Bucket), Storage: config.Storage, Subjects: []string{"$KV." + config.Bucket + ".>"},
		},
		make: func(ctx context.Context) error {
			_, err := j.js.CreateOrUpdateKeyValue(ctx, config)
			return err
		},
	}
}
