package journal

import (
	"cmp"
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rayexecutor/deliberation"
	"rayexecutor/events"
)

// Names on the server of what only some layouts have, behind the prefix of
// Settings.
const (
	// Responses is the stream of the agents' responses. It is created only for
	// those subjects that no stream of the fleet stores.
	Responses = "AGENT_RESPONSES"
	// UndeliveredStream holds the ends that the relay's sink has not taken, the
	// last one of each deliberation.
	UndeliveredStream = "RELAY_UNDELIVERED"
	// Workers is the key-value bucket of the worker replicas' heartbeats, one
	// key per replica.
	Workers = "DELIBERATION_WORKERS"
)

const (
	// WorkersBytes bounds the bucket of heartbeats, which take some 300 bytes each.
	WorkersBytes = 8 << 20
	// maxMessageBytes bounds a message of the journal; see offload.go.
	maxMessageBytes = 1 << 20
	// duplicateWindow is how long the server drops a repeated announcement.
	duplicateWindow = 2 * time.Minute
	// undeliveredSubject is followed by the deliberation's id.
	undeliveredSubject = "ray-executor.relay.undelivered."
	// responsesDescription also identifies our stream: the fleet may have one of
	// the same name.
	responsesDescription = "What Orchestrators of the Python service hear of each agent, from the ray-executor."
)

// requirement is a stream that a layout needs. A bucket is a stream too.
type requirement struct {
	// what names it in errors.
	what string
	// stream has at least the name, the subjects and the storage.
	stream jetstream.StreamConfig
	// create creates it, or updates its settings.
	create func(context.Context) error
	// shared lists the subjects, without wildcards, that a stream of another
	// owner may store instead: publishing goes by subject, and listeners read
	// each subject wherever it is stored. Nil: only this stream will do.
	shared []string
	// partial allows this stream to have only those of shared that no other
	// stream stores.
	partial bool
}

// requirements lists the streams of a layout, the journal first.
func (j *Journal) requirements(layout Layout) []requirement {
	required := []requirement{
		j.requireStream(j.journalStream(layout)),
		j.requireAnnouncements(layout),
		j.requireObjects(jetstream.ObjectStoreConfig{
			// An object outlives the message that refers to it.
			Bucket: j.name(Results), Description: "What no message of the journal can hold, by digest.",
			TTL: layout.MaxAge + time.Hour, MaxBytes: resultsBytes(layout.MaxBytes), Storage: jetstream.FileStorage, Replicas: layout.Replicas,
		}),
		j.requireValues(jetstream.KeyValueConfig{
			Bucket: j.name(Statistics), Description: "The statistics' snapshot.",
			History: 1, Storage: jetstream.FileStorage, Replicas: layout.Replicas,
		}),
		j.requireValues(j.workersBucket(layout)),
		j.requireObjects(jetstream.ObjectStoreConfig{
			// Without an age: a dead letter waits for a person.
			Bucket: j.name(DeadLetterBucket), Description: "Dead letters: `ray-executor dead list`.",
			MaxBytes: deadLetterBytes(layout.MaxBytes), Storage: jetstream.FileStorage, Replicas: layout.Replicas,
		}),
	}
	if layout.AgentResponses {
		required = append(required, j.requireResponses(layout))
	}
	if layout.Relay {
		required = append(required, j.requireStream(j.undeliveredStream(layout)))
	}
	return required
}

// journalStream discards new messages when it is full: an event that was
// acknowledged must not be lost before its age. Direct gets let any replica
// answer reads.
func (j *Journal) journalStream(layout Layout) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: j.name(Stream), Description: "The ray-executor's journal: every event of every deliberation.",
		Subjects: []string{events.JournalSubjects}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxAge: layout.MaxAge, MaxBytes: layout.MaxBytes, MaxMsgs: cmp.Or(layout.MaxMessages, -1), MaxMsgSize: maxMessageBytes,
		Replicas: layout.Replicas, AllowDirect: true,
	}
}

// undeliveredStream has no age: an undelivered end waits for a person. It
// discards new messages when it is full; the relay then continues to retry the
// ends that it cannot store there.
func (j *Journal) undeliveredStream(layout Layout) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: j.name(UndeliveredStream), Description: "Ends that the relay's sink did not take: `ray-executor relay list`.",
		Subjects: []string{undeliveredSubject + "*"}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: 1, MaxBytes: deadLetterBytes(layout.MaxBytes), Replicas: layout.Replicas,
	}
}

// workersBucket deletes a heartbeat after heartbeatAge: a replica that is silent
// for so long is gone.
func (j *Journal) workersBucket(layout Layout) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket: j.name(Workers), Description: "The Ray workers' heartbeats.", History: 1, TTL: heartbeatAge,
		MaxValueSize: maxHeartbeatBytes, MaxBytes: WorkersBytes, Storage: jetstream.FileStorage, Replicas: layout.Replicas,
	}
}

// requireAnnouncements requires the stream that listeners read. It is not split:
// either other streams store all three subjects, or ours does. Its description
// must not change, because it identifies the stream of an earlier deployment.
func (j *Journal) requireAnnouncements(layout Layout) requirement {
	announcements := j.requireStream(listenersStream(layout, j.name(Announcements),
		"What the Orchestrator hears of deliberations.", events.AnnouncementSubjects))
	for _, end := range []deliberation.State{deliberation.Completed, deliberation.Failed, deliberation.Cancelled} {
		announcements.shared = append(announcements.shared, events.AnnouncementSubject(end))
	}
	return announcements
}

// requireResponses requires what the Python service's Orchestrators read. Our stream
// has only the subjects that the fleet's streams do not store.
func (j *Journal) requireResponses(layout Layout) requirement {
	responses := j.requireStream(listenersStream(layout, j.name(Responses), responsesDescription, events.ResponseSubjects))
	responses.shared = []string{events.ResponseCompleted, events.ResponseFailed, events.ResponseReview, events.ResponseExtraction}
	responses.partial = true
	return responses
}

// listenersStream stores what listeners read. It discards old messages when it
// is full: a listener that does not read must not stop the announcements.
func listenersStream(layout Layout, name, description, subject string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Description: description,
		Subjects: []string{subject}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxAge: layout.MaxAge, MaxBytes: announcementBytes(layout.MaxBytes), Duplicates: duplicateWindow,
		Replicas: layout.Replicas, AllowDirect: true,
	}
}

// requireStream requires a stream. CreateOrUpdateStream leaves the messages of an
// existing one as they are.
func (j *Journal) requireStream(config jetstream.StreamConfig) requirement {
	return requirement{what: "stream " + config.Name, stream: config, create: func(ctx context.Context) error {
		_, err := j.js.CreateOrUpdateStream(ctx, config)
		return err
	}}
}

// requireObjects requires an object store: a stream with a subject for the parts and
// one for the names.
func (j *Journal) requireObjects(config jetstream.ObjectStoreConfig) requirement {
	return requirement{
		what: "object store " + config.Bucket,
		stream: jetstream.StreamConfig{
			Name: objectStream(config.Bucket), Storage: config.Storage,
			Subjects: []string{"$O." + config.Bucket + ".C.>", "$O." + config.Bucket + ".M.>"},
		},
		create: func(ctx context.Context) error {
			_, err := j.js.CreateOrUpdateObjectStore(ctx, config)
			return err
		},
	}
}

// requireValues requires a key-value bucket: a stream with a subject per key.
func (j *Journal) requireValues(config jetstream.KeyValueConfig) requirement {
	return requirement{
		what: "bucket " + config.Bucket,
		stream: jetstream.StreamConfig{
			Name: bucketStream(config.Bucket), Storage: config.Storage, Subjects: []string{"$KV." + config.Bucket + ".>"},
		},
		create: func(ctx context.Context) error {
			_, err := j.js.CreateOrUpdateKeyValue(ctx, config)
			return err
		},
	}
}

// objectStream is the stream behind an object store.
func objectStream(bucket string) string { return "OBJ_" + bucket }

// bucketStream is the stream behind a key-value bucket.
func bucketStream(bucket string) string { return "KV_" + bucket }

// announcementBytes is a quarter of the journal's size: an end has one
// announcement, and listeners read it soon.
func announcementBytes(journal int64) int64 {
	if journal < 0 {
		return journal
	}
	return journal / 4
}

// resultsBytes is the size of the object store for offloaded fields: an eighth.
func resultsBytes(journal int64) int64 {
	if journal < 0 {
		return journal
	}
	return journal / 8
}

// deadLetterBytes is a sixteenth. The dead letters and the undelivered ends have
// that much each.
func deadLetterBytes(journal int64) int64 { return announcementBytes(announcementBytes(journal)) }
