package faults

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestASeedDecidesThePlan(t *testing.T) {
	t.Parallel()
	for _, length := range []time.Duration{20 * time.Second, 30 * time.Minute} {
		plan := NewPlan(7, length)
		if !reflect.DeepEqual(plan, NewPlan(7, length)) {
			t.Errorf("two plans of one seed differ, %s long", length)
		}
		if calm := Calm(7); !reflect.DeepEqual(calm, Calm(7)) || len(calm.Asks) == 0 {
			t.Errorf("two calm plans of one seed differ, or ask nothing")
		}
		other := NewPlan(8, length)
		if reflect.DeepEqual(plan.Faults, other.Faults) || len(plan.Asks) == len(other.Asks) && plan.Asks[5].At == other.Asks[5].At {
			t.Errorf("plans of two seeds are the same, %s long", length)
		}
	}
}

// A soak of half an hour, as docs/reliability.md shows, and CI's run have every kind.
func TestALongPlanHasEveryKind(t *testing.T) {
	t.Parallel()
	for _, length := range []time.Duration{ciLength, 30 * time.Minute} {
		for seed := range uint64(20) {
			plan := NewPlan(seed, length)
			for _, kind := range kinds() {
				if !slices.ContainsFunc(plan.Faults, func(f Fault) bool { return f.Kind == kind }) {
					t.Errorf("seed %d, %s: no %s", seed, length, kind)
				}
			}
			ends := map[string]time.Duration{}
			for _, f := range plan.Faults {
				if f.At < ends[f.Track] || f.At+f.For > plan.Length {
					t.Errorf("seed %d, %s: %+v overlaps the one before, or the end", seed, length, f)
				}
				ends[f.Track] = f.At + f.For
			}
		}
	}
}

// ciLength is how long the run of .ci/run is.
const ciLength = 8 * time.Minute

// A short run says of each kind that it leaves out why.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	plan := NewPlan(1, 20*time.Second)
	var made []Window
	for _, f := range plan.Faults {
		made = append(made, Window{Kind: f.Kind})
	}
	left := plan.leftOut(made)
	for _, kind := range kinds() {
		happened := slices.ContainsFunc(made, func(w Window) bool { return w.Kind == kind })
		said := slices.ContainsFunc(left, func(line omission) bool { return line.kind == kind && line.reason != "" })
		if happened == said {
			t.Errorf("%s: happened %t, listed as left out %t", kind, happened, said)
		}
	}
	nothing := NewPlan(1, ciLength).leftOut(nil)
	if len(nothing) != len(kinds()) || nothing[0].reason != "no time was left for it" {
		t.Errorf("left out of a run that made nothing: %q", nothing)
	}
}
