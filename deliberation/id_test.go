package deliberation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"rayexecutor/deliberation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestValidID(t *testing.T) {
	t.Parallel()
	for id, valid := range map[string]bool{
		"a": true, "A-z_09": true, strings.Repeat("x", 64): true, deliberation.NewID(): true,
		"": false, strings.Repeat("x", 65): false, "a.b": false, "*": false, ">": false, "a b": false, "a\n": false, "ä": false,
	} {
		if deliberation.ValidID(id) != valid {
			t.Errorf("ValidID(%q) is not %v", id, valid)
		}
	}
}

func TestNewIDsSortByTime(t *testing.T) {
	t.Parallel()
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = deliberation.NewID()
	}
	if !slices.IsSorted(ids) || len(slices.Compact(ids)) != 1000 {
		t.Error("fresh ids must be distinct and sort by the time they were made")
	}
}

func TestDerivedIDIsUnique(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		source, id := rapid.String().Draw(t, "source"), rapid.String().Draw(t, "id")
		derived := deliberation.DerivedID(source, id)
		if !deliberation.ValidID(derived) || derived != deliberation.DerivedID(source, id) {
			t.Fatalf("%q must be valid, and the same each time", derived)
		}
		// The same bytes cut elsewhere are another event.
		joined := source + id
		cut := rapid.IntRange(0, len(joined)).Draw(t, "cut")
		if cut != len(source) && derived == deliberation.DerivedID(joined[:cut], joined[cut:]) {
			t.Fatalf("(%q, %q) and (%q, %q) have one id", source, id, joined[:cut], joined[cut:])
		}
	})
}

func TestRetryIDs(t *testing.T) {
	t.Parallel()
	if got := deliberation.RetryID("d1"); got != "d1-retry" {
		t.Errorf("d1 is retried as %s", got)
	}
	seen := make(map[string]bool)
	for id, i := strings.Repeat("x", 40), 0; i < 20; i++ {
		id = deliberation.RetryID(id)
		if !deliberation.ValidID(id) || seen[id] {
			t.Fatalf("retry %d is %q", i, id)
		}
		seen[id] = true
	}
}

func ExampleDerivedID() {
	fmt.Println(deliberation.DerivedID("ab", "c"))
	fmt.Println(deliberation.DerivedID("a", "bc"))
	// Output:
	// ce-maovi5xczt7czb5cxot2gitfs42kav2j
	// ce-h6x2dtzpdgt4ceu35mqm6cmd645ergrc
}

func TestAsErrorHidesInternalCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("dial 10.0.0.1: password is hunter2")
	coded := deliberation.AsError(cause)
	if coded.Code != deliberation.Internal || coded.Error() != "internal" || !errors.Is(coded, cause) {
		t.Errorf("got %s %q", coded.Code, coded)
	}
	known := &deliberation.Error{Code: deliberation.Conflict, Field: "deliberation_id", Message: "taken"}
	if got := deliberation.AsError(fmt.Errorf("wrapped: %w", known)); got != known || got.Error() != "deliberation_id: taken" {
		t.Errorf("got %v", got)
	}
	if got := deliberation.AsError(fmt.Errorf("read: %w", context.Canceled)); got.Code != deliberation.Unavailable || got.RetryAfter == 0 {
		t.Errorf("a call that was given up is %s", got.Code)
	}
}
