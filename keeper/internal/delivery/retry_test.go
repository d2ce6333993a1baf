package delivery

import (
	"testing"
	"time"
)

func TestPause(t *testing.T) {
	t.Parallel()
	for attempt, full := range map[uint64]time.Duration{
		0: firstPause, 1: firstPause, 2: 2 * firstPause, 5: 16 * firstPause, 9: 51200 * time.Millisecond, 10: longestPause, 1 << 40: longestPause,
	} {
		for range 100 {
			if got := Pause(attempt, 0); got < full/2 || got >= full {
				t.Fatalf("after attempt %d: %s, want %s to %s", attempt, got, full/2, full)
			}
		}
	}
	if got := Pause(1, time.Hour); got != time.Hour {
		t.Errorf("the sink asked for an hour: %s", got)
	}
}
