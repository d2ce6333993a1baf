package deliberation_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"rayexecutor/deliberation"
	pb "rayexecutor/proto/ray_executor/v1"
)

// sorted returns a ledger's totals in an order.
func sorted(ledger *deliberation.Ledger) deliberation.Totals {
	totals := ledger.Totals()
	slices.SortFunc(totals.Pools, func(a, b deliberation.PoolTotals) int { return cmp.Compare(a.GetPool(), b.GetPool()) })
	slices.SortFunc(totals.Models, func(a, b *pb.StatsSnapshot_Model) int { return cmp.Compare(a.GetModel(), b.GetModel()) })
	return totals
}

func reload(t interface{ Fatal(args ...any) }, ledger *deliberation.Ledger) *deliberation.Ledger {
	snapshot, err := ledger.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := deliberation.DecodeLedger(snapshot.Data)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

// The totals are sums of the statistics, and a restart at any point changes nothing.
func TestTotalsAddUpAndSurviveRestarts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		marks := history(t)
		for i := range marks {
			if marks[i].Kind == deliberation.KindRequested {
				marks[i].Qualifier = rapid.SampledFrom([]string{"default", "gpu", "gpu_high-t1"}).Draw(t, "pool")
			}
		}
		steady, restarted := deliberation.NewLedger(nil), deliberation.NewLedger(nil)
		cut := rapid.IntRange(0, len(marks)).Draw(t, "cut")
		for i, mark := range marks {
			if i == cut {
				restarted = reload(t, restarted)
			}
			steady.Apply(mark)
			restarted.Apply(mark)
		}
		if diff := gocmp.Diff(sorted(steady), sorted(restarted), protocmp.Transform()); diff != "" {
			t.Fatal("a restart changes the totals:", diff)
		}
		stats, totals := steady.Stats(), steady.Totals()
		var got pb.RayExecutorStats
		for _, pool := range totals.Pools {
			got.CompletedDeliberations += pool.GetCompleted()
			got.FailedDeliberations += pool.GetFailed()
			got.CancelledDeliberations += pool.GetCancelled()
			got.QueuedDeliberations += pool.Queued
			got.ActiveDeliberations += pool.Queued + pool.Running
			if pool.OldestQueued.IsZero() != (pool.Queued == 0) {
				t.Fatalf("%d are queued, the oldest since %v", pool.Queued, pool.OldestQueued)
			}
		}
		want := &pb.RayExecutorStats{
			CompletedDeliberations: stats.GetCompletedDeliberations(), FailedDeliberations: stats.GetFailedDeliberations(),
			CancelledDeliberations: stats.GetCancelledDeliberations(), QueuedDeliberations: stats.GetQueuedDeliberations(),
			ActiveDeliberations: stats.GetActiveDeliberations(),
		}
		if diff := gocmp.Diff(want, &got, protocmp.Transform()); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestTotalsOfOneDeliberation(t *testing.T) {
	t.Parallel()
	ledger := deliberation.NewLedger(nil)
	at := noon.Truncate(time.Second)
	sequence := uint64(0)
	apply := func(kind deliberation.Kind, qualifier, id string, after time.Duration, models ...*pb.StatsSnapshot_Model) {
		sequence++
		ledger.Apply(deliberation.Mark{
			Sequence: sequence, Time: at.Add(after), Kind: kind, Qualifier: qualifier, DeliberationID: id,
			Timeout: 10 * time.Second, Models: models,
		})
	}
	apply(deliberation.KindRequested, "gpu", "waits", 0)
	apply(deliberation.KindRequested, "gpu", "runs", time.Second)
	apply(deliberation.KindRequested, "gpu", "in-time", 2*time.Second)
	apply(deliberation.KindRequested, "gpu", "late", 2*time.Second)
	apply(deliberation.KindRequested, "gpu", "cancelled-late", 2*time.Second)
	apply(deliberation.KindStarted, "gpu", "runs", 3*time.Second)
	apply(deliberation.KindStarted, "gpu", "in-time", 3*time.Second)
	apply(deliberation.KindStarted, "gpu", "in-time", 4*time.Second) // a second attempt waited no more
	apply(deliberation.KindStarted, "gpu", "late", 3*time.Second)
	used := &pb.StatsSnapshot_Model{Model: "qwen", Usage: &pb.Usage{PromptTokens: 5, Requests: 1}}
	apply(deliberation.KindDone, "completed", "in-time", 11*time.Second, used)
	apply(deliberation.KindDone, "failed", "late", 12*time.Second, used)
	apply(deliberation.KindDone, "cancelled", "cancelled-late", 13*time.Second)

	counts := func(in map[int]int64) []int64 {
		all := make([]int64, len(deliberation.Bounds)+1)
		for bucket, count := range in {
			all[bucket] = count
		}
		return all
	}
	bucket := func(seconds float64) int { index, _ := slices.BinarySearch(deliberation.Bounds, seconds); return index }
	want := deliberation.Totals{
		Pools: []deliberation.PoolTotals{{
			StatsSnapshot_Pool: &pb.StatsSnapshot_Pool{Pool: "gpu", Completed: 1, Failed: 1, Cancelled: 1, Late: 1},
			Queued:             1, Running: 1, OldestQueued: at,
		}},
		Models:    []*pb.StatsSnapshot_Model{{Model: "qwen", Usage: &pb.Usage{PromptTokens: 10, Requests: 2}}},
		Queue:     &pb.StatsSnapshot_Histogram{Bounds: deliberation.Bounds, Counts: counts(map[int]int64{bucket(1): 2, bucket(2): 1}), Sum: 4},
		Execution: &pb.StatsSnapshot_Histogram{Bounds: deliberation.Bounds, Counts: counts(map[int]int64{bucket(8): 2}), Sum: 17},
	}
	if diff := gocmp.Diff(want, sorted(ledger), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

// What an older version counted has no pool, and its sums remain.
func TestTotalsOfAnOlderSnapshot(t *testing.T) {
	t.Parallel()
	old := &pb.StatsSnapshot{Sequence: 9, Total: 7, Completed: 4, Failed: 2, Cancelled: 1}
	ledger := reload(t, deliberation.NewLedger(old))
	want := []deliberation.PoolTotals{{
		StatsSnapshot_Pool: &pb.StatsSnapshot_Pool{Pool: deliberation.UnknownPool, Completed: 4, Failed: 2, Cancelled: 1},
	}}
	if diff := gocmp.Diff(want, ledger.Totals().Pools, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	// An older keeper in between drops the pools, and adds to the sums.
	data, err := proto.Marshal(&pb.StatsSnapshot{Completed: 5, Pools: []*pb.StatsSnapshot_Pool{{Pool: "gpu", Completed: 3}}})
	if err != nil {
		t.Fatal(err)
	}
	if ledger, err = deliberation.DecodeLedger(data); err != nil {
		t.Fatal(err)
	}
	got := sorted(ledger).Pools
	if len(got) != 2 || got[0].GetPool() != deliberation.UnknownPool || got[0].GetCompleted() != 2 || got[1].GetCompleted() != 3 {
		t.Errorf("got %v", got)
	}
	// Other bounds of a version to come cannot be continued.
	ledger = deliberation.NewLedger(&pb.StatsSnapshot{Queue: &pb.StatsSnapshot_Histogram{Bounds: []float64{1}, Counts: []int64{1, 2}, Sum: 9}})
	if sum := ledger.Totals().Queue.GetSum(); sum != 0 {
		t.Errorf("the sum is %v", sum)
	}
}

// Names come from callers: they are bounded.
func TestTotalsHaveBoundedNames(t *testing.T) {
	t.Parallel()
	ledger := deliberation.NewLedger(nil)
	const n = 300
	for i := range uint64(n) {
		id := fmt.Sprint("d", i)
		ledger.Apply(deliberation.Mark{Sequence: 2*i + 1, Time: noon, Kind: deliberation.KindRequested, Qualifier: fmt.Sprint("p", i), DeliberationID: id})
		ledger.Apply(deliberation.Mark{
			Sequence: 2*i + 2, Time: noon, Kind: deliberation.KindDone, Qualifier: "completed", DeliberationID: id,
			Models: []*pb.StatsSnapshot_Model{{Model: fmt.Sprint("m", i), Usage: &pb.Usage{Requests: 1}}},
		})
	}
	for name, totals := range map[string]deliberation.Totals{"new": ledger.Totals(), "loaded": reload(t, ledger).Totals()} {
		var ended, requests int64
		for _, pool := range totals.Pools {
			ended += pool.GetCompleted()
		}
		for _, model := range totals.Models {
			requests += model.GetUsage().GetRequests()
		}
		if len(totals.Pools) > 101 || len(totals.Models) > 51 || ended != n || requests != n {
			t.Errorf("%s: %d pools, %d models, %d ends, %d requests", name, len(totals.Pools), len(totals.Models), ended, requests)
		}
	}
}
