package journaltest

import (
	"testing"

	"go.uber.org/goleak"
)

// VerifyTestMain runs a package's tests and fails if they leave goroutines behind.
//
// It ignores one that nats.go v1.55 leaks. An object store's Put starts a publisher
// (jetstream/object.go) and discards it at its end, where cleanupReplySub sets the
// publisher's connStatusCh to nil. If resetPendingAcksOnReconnect starts after that
// it receives from the nil channel forever. It happens under load only, where a
// goroutine starts later than Put ends.
func VerifyTestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}
