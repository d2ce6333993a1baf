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

// A soak of half an hour, as docs/reliability.md tells of, meets every kind.
func TestALongPlanHasEveryKind(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		plan := NewPlan(seed, 30*time.Minute)
		for _, kind := range kinds() {
			if !slices.ContainsFunc(plan.Faults, func(f Fault) bool { return f.Kind == kind }) {
				t.Errorf("seed %d: no %s", seed, kind)
			}
		}
		ends := map[string]time.Duration{}
		for _, f := range plan.Faults {
			if f.At < ends[f.Track] || f.At+f.For > plan.Length {
				t.Errorf("seed %d: %+v overlaps the one before, or the end", seed, f)
			}
			ends[f.Track] = f.At + f.For
		}
	}
}
