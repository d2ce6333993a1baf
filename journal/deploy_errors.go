package journal

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// refusals explains why the server does not create a stream or a consumer. The first
// match counts: codeNoPeers has several causes, which only its text distinguishes.
var refusals = []cure{
	{
		func(err error) bool {
			return hasCode(err, codeAccountExceeded, codeInsufficientResources, codeStorageExceeded, codeStreamBytesExceeded) ||
				hasCode(err, codeNoPeers) && says("insufficient storage")(err)
		},
		"JOURNAL_MAX_BYTES", "NATS lacks the room: set it lower, or give JetStream more storage", true,
	},
	{
		func(err error) bool { return hasCode(err, codeNoPeers) && says("offline")(err) },
		"NATS_URL", "some of its servers are offline", false,
	},
	{coded(codeNoReplicas, codeNoPeers), "JOURNAL_REPLICAS", "NATS has fewer servers with JetStream: set it lower", true},
	{coded(codeBytesRequired), "NATS_URL", "the account asks for a size of every stream: switch max_bytes_required off", true},
	{coded(codeMaxStreams, codeMaxConsumers), "NATS_URL", "the account's limit of streams or consumers is reached: raise it", true},
	{coded(codeOverlap), "NATS_URL", "another stream has just taken its subjects: deploy again, which names it", true},
	{
		coded(codeStreamCreate, codeInvalidConfig, codeStreamUpdate, jetstream.JSErrCodeStreamNameInUse), "NATS_URL",
		"NATS refuses the settings; if it exists, back it up, delete it and deploy again", true,
	},
	{nil, "", "", false},
}

// coded matches errors by the server's code.
func coded(codes ...jetstream.ErrorCode) func(error) bool {
	return func(err error) bool { return hasCode(err, codes...) }
}

// refused is failed for a creation or an update. Most refusals are permanent: the
// settings, or the server's configuration, must change before a deployment succeeds.
func (j *Journal) refused(doing string, err error) error {
	if cure := cureFor(refusals, err); cure.is != nil {
		return cure.error("could not "+doing+":", err)
	}
	return j.failed(doing, err)
}

// transient reports whether the next attempt may succeed: a cluster of servers
// is electing a leader.
func transient(err error) bool {
	return !Permanent(err) && (errors.Is(err, context.DeadlineExceeded) || hasCode(err, codeNotAvailable) || hasCode(err, codeNoPeers))
}
