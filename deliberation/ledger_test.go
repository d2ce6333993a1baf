package deliberation_test

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// history draws a history that the journal allows: a request an id, starts and
// agents at any time, several who want to end it.
func history(t *rapid.T) []deliberation.Mark {
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) deliberation.Mark {
		kind := rapid.SampledFrom([]deliberation.Kind{
			deliberation.KindRequested, deliberation.KindStarted, deliberation.KindAgent, deliberation.KindDone,
		}).Draw(t, "kind")
		mark := deliberation.Mark{Kind: kind, DeliberationID: fmt.Sprintf("d%d", rapid.IntRange(0, 5).Draw(t, "id")), Qualifier: "default"}
		switch kind {
		case deliberation.KindRequested:
			mark.Timeout = time.Duration(rapid.IntRange(1, 100).Draw(t, "timeout")) * time.Second
			mark.Tenant = rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "tenant")
		case deliberation.KindDone:
			mark.Qualifier = rapid.SampledFrom([]string{"completed", "failed", "cancelled"}).Draw(t, "end")
			if rapid.Bool().Draw(t, "with usage") {
				mark.Usage = usage(t)
			}
		default:
		}
		return mark
	}), 0, 40).Draw(t, "steps")
	known := map[string]bool{}
	var marks []deliberation.Mark
	at, sequence := noon, uint64(0)
	for _, mark := range steps {
		if requested := mark.Kind == deliberation.KindRequested; requested == known[mark.DeliberationID] {
			continue // a second request, or something before the first
		}
		known[mark.DeliberationID] = true
		sequence += uint64(rapid.IntRange(1, 3).Draw(t, "gap"))
		at = at.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
		mark.Sequence, mark.Time = sequence, at
		marks = append(marks, mark)
	}
	return marks
}

// usage draws counts, also those of a model server that cannot count.
func usage(t *rapid.T) *pb.Usage {
	count := rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64())
	return &pb.Usage{
		PromptTokens: count.Draw(t, "prompt"), CompletionTokens: count.Draw(t, "completion"),
		CachedTokens: count.Draw(t, "cached"), ReasoningTokens: count.Draw(t, "reasoning"), Requests: count.Draw(t, "requests"),
	}
}

// plus adds without overflow; counts below 0 are none.
func plus(total *int64, more int64) {
	sum := new(big.Int).Add(big.NewInt(*total), big.NewInt(max(0, more)))
	if *total = math.MaxInt64; sum.IsInt64() {
		*total = sum.Int64()
	}
}

// recount counts the statistics in the naive way: one deliberation after another.
func recount(marks []deliberation.Mark) *pb.RayExecutorStats {
	stats := &pb.RayExecutorStats{}
	byID := map[string][]deliberation.Mark{}
	for _, mark := range marks {
		byID[mark.DeliberationID] = append(byID[mark.DeliberationID], mark)
	}
	var timed, milliseconds int64
	for _, own := range byID {
		stats.TotalDeliberations++
		end := slices.IndexFunc(own, func(m deliberation.Mark) bool { return m.Kind == deliberation.KindDone })
		start := slices.IndexFunc(own, func(m deliberation.Mark) bool { return m.Kind == deliberation.KindStarted })
		if end >= 0 {
			plus(&stats.PromptTokens, own[end].Usage.GetPromptTokens())
			plus(&stats.CompletionTokens, own[end].Usage.GetCompletionTokens())
			plus(&stats.CachedTokens, own[end].Usage.GetCachedTokens())
			plus(&stats.ModelRequests, own[end].Usage.GetRequests())
		}
		switch {
		case end < 0 && start < 0:
			stats.QueuedDeliberations++
			fallthrough
		case end < 0:
			stats.ActiveDeliberations++
			continue
		case own[end].Qualifier == "completed":
			stats.CompletedDeliberations++
		case own[end].Qualifier == "failed":
			stats.FailedDeliberations++
		default:
			stats.CancelledDeliberations++
			continue
		}
		if start >= 0 && start < end {
			timed++
			milliseconds += own[end].Time.Sub(own[start].Time).Milliseconds()
		}
	}
	if timed > 0 {
		stats.AverageExecutionTimeMs = float32(float64(milliseconds) / float64(timed))
	}
	return stats
}

func fold(ledger *deliberation.Ledger, marks []deliberation.Mark) *deliberation.Ledger {
	for _, mark := range marks {
		ledger.Apply(mark)
	}
	return ledger
}

// TestLedgerCounts: against a naive recount, with a snapshot taken at any
// point, and with a stretch read twice.
func TestLedgerCounts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		marks := history(t)
		whole := fold(deliberation.NewLedger(nil), marks)
		want := recount(marks)
		if got := whole.Stats(); !proto.Equal(got, want) {
			t.Fatalf("got  %v\nwant %v\nof %v", got, want, marks)
		}
		if ends := want.GetCompletedDeliberations() + want.GetFailedDeliberations() + want.GetCancelledDeliberations(); ends+want.GetActiveDeliberations() != want.GetTotalDeliberations() {
			t.Fatalf("%v does not add up", want)
		}

		cut := rapid.IntRange(0, len(marks)).Draw(t, "snapshot at")
		back := rapid.IntRange(0, cut).Draw(t, "read again from")
		resumed := fold(stored(t, fold(deliberation.NewLedger(nil), marks[:cut])), marks[back:])
		if got, want := message(t, resumed), message(t, whole); !proto.Equal(got, want) {
			t.Fatalf("from a snapshot at %d, read from %d:\n%v\nwant\n%v", cut, back, got, want)
		}
	})
}

// stored is a ledger as it is read from its snapshot.
func stored(t rapid.TB, ledger *deliberation.Ledger) *deliberation.Ledger {
	t.Helper()
	snapshot, err := ledger.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if len(snapshot.Data) != cap(snapshot.Data) {
		t.Errorf("a snapshot of %d bytes took %d", len(snapshot.Data), cap(snapshot.Data))
	}
	read, err := deliberation.DecodeLedger(snapshot.Data)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// message is a ledger's snapshot, its open deliberations in order. It is decoded
// by protobuf alone.
func message(t rapid.TB, ledger *deliberation.Ledger) *pb.StatsSnapshot {
	t.Helper()
	snapshot, err := ledger.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	decoded := &pb.StatsSnapshot{}
	if err := proto.Unmarshal(snapshot.Data, decoded); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(decoded.GetOpen(), func(a, b *pb.StatsSnapshot_Open) int { return cmp.Compare(a.GetSequence(), b.GetSequence()) })
	return decoded
}

// TestSnapshotReference: a snapshot whose open deliberations are elsewhere has
// all the rest.
func TestSnapshotReference(t *testing.T) {
	t.Parallel()
	ledger := fold(deliberation.NewLedger(nil), []deliberation.Mark{
		{Sequence: 3, Kind: deliberation.KindRequested, Qualifier: "default", DeliberationID: "d", Time: noon, Timeout: time.Minute},
	})
	want := message(t, ledger)
	want.Open, want.OpenRef = nil, "sha256-x"
	snapshot, err := ledger.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	got := &pb.StatsSnapshot{}
	if err := proto.Unmarshal(snapshot.WithRef("sha256-x"), got); err != nil || !proto.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// TestSnapshotOfANewerVersion: during an upgrade an older keeper stores what a
// newer one counts, though it does not count that.
func TestSnapshotOfANewerVersion(t *testing.T) {
	t.Parallel()
	newer, err := proto.Marshal(&pb.StatsSnapshot{Sequence: 7, Total: 5})
	if err != nil {
		t.Fatal(err)
	}
	newer = protowire.AppendVarint(protowire.AppendTag(newer, 9999, protowire.VarintType), 42)
	ledger, err := deliberation.DecodeLedger(newer)
	if err != nil {
		t.Fatal(err)
	}
	stored := message(t, fold(ledger, []deliberation.Mark{
		{Sequence: 8, Kind: deliberation.KindRequested, Qualifier: "default", DeliberationID: "d", Time: noon, Timeout: time.Minute},
	}))
	if number, _, n := protowire.ConsumeField(stored.ProtoReflect().GetUnknown()); n < 0 || number != 9999 || stored.GetTotal() != 6 || len(stored.GetOpen()) != 1 {
		t.Errorf("stored %v", stored)
	}
}

// TestDamagedSnapshot fails, and does not panic.
func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	good, err := proto.Marshal(&pb.StatsSnapshot{Sequence: 1, Open: []*pb.StatsSnapshot_Open{{DeliberationId: "d", Pool: "p"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{{0xff, 0xff}, good[:len(good)-1], {0x42, 0x01, 0x0a}, {0x08}} {
		if _, err := deliberation.DecodeLedger(data); err == nil {
			t.Errorf("%x was decoded", data)
		}
	}
}

func TestLedgerSkipsUnknownMarks(t *testing.T) {
	t.Parallel()
	ledger := fold(deliberation.NewLedger(nil), []deliberation.Mark{
		{Sequence: 1, Kind: deliberation.KindStarted, DeliberationID: "before our time"},
		{Sequence: 2, Kind: deliberation.KindDone, Qualifier: "completed", DeliberationID: "before our time"},
		{Sequence: 3, Kind: deliberation.KindRequested, Qualifier: "default", DeliberationID: "d", Time: noon, Timeout: time.Minute},
		{Sequence: 4, Kind: deliberation.KindDone, Qualifier: "evaporated", DeliberationID: "d", Time: noon},
	})
	want := &pb.RayExecutorStats{TotalDeliberations: 1, ActiveDeliberations: 1, QueuedDeliberations: 1}
	if got := ledger.Stats(); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOverdue(t *testing.T) {
	t.Parallel()
	ledger := deliberation.NewLedger(nil)
	for i := range 20 {
		ledger.Apply(deliberation.Mark{
			Sequence: uint64(i + 1), Kind: deliberation.KindRequested, Qualifier: "default",
			DeliberationID: fmt.Sprintf("d%d", i), Time: noon.Add(time.Duration(i) * time.Second), Timeout: time.Minute,
		})
	}
	var ids []string
	for _, open := range ledger.Overdue(noon.Add(time.Minute+3*time.Second), 20) {
		ids = append(ids, open.ID)
	}
	slices.Sort(ids)
	if want := []string{"d0", "d1", "d2"}; !slices.Equal(ids, want) {
		t.Errorf("overdue are %v, want %v: not the one whose deadline is just now", ids, want)
	}
	for range 2 { // what is overdue stays so until it has ended
		if some := ledger.Overdue(noon.Add(time.Hour), 5); len(some) != 5 {
			t.Errorf("%d of 20 are overdue, asked for 5", len(some))
		}
	}
	if open := ledger.Open(); len(open) != 20 || open[0].ID != "d0" || open[19].ID != "d19" {
		t.Errorf("open: %v", open)
	}
}

// TestForgetting: what the journal lost before its end was counted is neither
// active nor ended.
func TestForget(t *testing.T) {
	t.Parallel()
	ledger := deliberation.NewLedger(nil)
	for i := range 4 {
		ledger.Apply(deliberation.Mark{
			Sequence: uint64(i + 1), Kind: deliberation.KindRequested, Qualifier: "default",
			DeliberationID: fmt.Sprintf("d%d", i), Time: noon, Timeout: time.Minute,
		})
	}
	want := func(when string, active, forgotten int64) {
		t.Helper()
		for _, read := range []*deliberation.Ledger{ledger, stored(t, ledger)} {
			stats := read.Stats()
			if stats.GetActiveDeliberations() != active || stats.GetQueuedDeliberations() != active || stats.GetForgottenDeliberations() != forgotten {
				t.Errorf("%s: %v", when, stats)
			}
		}
	}
	ledger.ForgetBefore(1)
	want("nothing is lost", 4, 0)
	ledger.ForgetBefore(3)
	ledger.ForgetBefore(3)
	want("the first two are lost", 2, 2)
	ledger.Forget("d3")
	ledger.Forget("d3")
	want("another is deleted", 1, 3)
	ledger.Apply(deliberation.Mark{Sequence: 5, Kind: deliberation.KindDone, Qualifier: "failed", DeliberationID: "d0"})
	want("an end of what is forgotten", 1, 3)
	ledger.Apply(deliberation.Mark{Sequence: 6, Kind: deliberation.KindRequested, DeliberationID: "d2", Time: noon, Timeout: time.Minute})
	want("an id is used again", 1, 4)
	if stats := ledger.Stats(); stats.GetTotalDeliberations() != 5 {
		t.Errorf("the total is %d, want 5", stats.GetTotalDeliberations())
	}
}

// TestOldestAndNewest against what sorting says.
func TestOldestAndNewest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ledger := fold(deliberation.NewLedger(nil), history(t))
		n := rapid.IntRange(0, 7).Draw(t, "n")
		queued := func(open deliberation.Open) bool { return open.Started.IsZero() }
		all := slices.DeleteFunc(ledger.Open(), func(open deliberation.Open) bool { return !queued(open) })
		if got, want := ledger.Oldest(n, queued), all[:min(n, len(all))]; !slices.Equal(got, want) {
			t.Fatalf("the oldest %d are %v, want %v", n, got, want)
		}
		slices.Reverse(all)
		if got, want := ledger.Newest(n, queued), all[:min(n, len(all))]; !slices.Equal(got, want) {
			t.Fatalf("the newest %d are %v, want %v", n, got, want)
		}
	})
}

func BenchmarkLedger(b *testing.B) {
	ledger := deliberation.NewLedger(nil)
	var sequence uint64
	b.ReportAllocs()
	for b.Loop() {
		id := fmt.Sprint(sequence)
		for _, kind := range []deliberation.Kind{deliberation.KindRequested, deliberation.KindStarted, deliberation.KindDone} {
			sequence++
			ledger.Apply(deliberation.Mark{Sequence: sequence, Kind: kind, Qualifier: "completed", DeliberationID: id, Time: noon})
		}
	}
}

// BenchmarkOverdue scans 100,000 that are open and not overdue, as the
// keeper does each second.
func BenchmarkOverdue(b *testing.B) {
	ledger := deliberation.NewLedger(nil)
	for sequence := range uint64(100_000) {
		ledger.Apply(deliberation.Mark{
			Sequence: sequence + 1, Kind: deliberation.KindRequested, DeliberationID: fmt.Sprint(sequence), Time: noon, Timeout: time.Hour,
		})
	}
	b.ReportAllocs()
	for b.Loop() {
		if overdue := ledger.Overdue(noon, 1000); len(overdue) > 0 {
			b.Fatalf("%d are overdue", len(overdue))
		}
	}
}
