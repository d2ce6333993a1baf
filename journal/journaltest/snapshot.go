package journaltest

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// failer is what Snapshot needs of a test; rapid's tests have it too.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// Snapshot returns a ledger's snapshot.
func Snapshot(t failer, ledger *deliberation.Ledger) deliberation.Snapshot {
	t.Helper()
	snapshot, err := ledger.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return snapshot
}

// Message returns a ledger's snapshot as a message, its open deliberations in the
// order of the journal.
func Message(t failer, ledger *deliberation.Ledger) *pb.StatsSnapshot {
	t.Helper()
	message := &pb.StatsSnapshot{}
	if err := proto.Unmarshal(Snapshot(t, ledger).Data, message); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(message.GetOpen(), func(a, b *pb.StatsSnapshot_Open) int { return cmp.Compare(a.GetSequence(), b.GetSequence()) })
	return message
}
