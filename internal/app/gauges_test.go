// SPDX-License-Identifier: Apache-2.0

package app

import (
	"testing"
	"time"
)

func TestResting_WhenConfigurationChangesAndGrows_ThenRestsOnceWhenQuiet(t *testing.T) {
	var r resting
	start := time.Now()
	ask := func(second int, epoch uint64, mib int64, want bool) {
		t.Helper()
		busy := time.Duration(second) * time.Second / 2
		if got := r.due(start.Add(time.Duration(second)*time.Second), epoch, mib<<20, busy); (got == tired) != want || got == calm {
			t.Errorf("second %d: %v, want %v", second, got, want)
		}
	}
	ask(0, 1, 30, false) // the first rest is somebody else's
	ask(5, 1, 30, false)
	r.rested(start.Add(6*time.Second), 14<<20)
	ask(10, 1, 14, false)
	ask(15, 1, 14, false) // quiet, but nothing to win
	ask(20, 2, 80, false) // a change
	ask(25, 2, 80, false)
	ask(30, 2, 80, false) // quiet, but the last rest is too near
	ask(40, 2, 80, true)
	r.rested(start.Add(41*time.Second), 60<<20)
	ask(100, 2, 90, false) // once only: what grows without a change is in use
	ask(105, 3, 62, false)
	ask(110, 3, 62, false)
	ask(115, 3, 62, false) // too little growth
	ask(150, 4, 90, false)
	ask(155, 5, 90, false) // still changing
	ask(160, 5, 90, false)
	ask(165, 5, 90, true)
}

func TestResting_WhenTrafficEndedAndLeftGarbage_ThenRestsOnceWhenIdle(t *testing.T) {
	var r resting
	start := time.Now()
	r.rested(start, 12<<20)
	for _, x := range []struct {
		second, kib int
		cpu         time.Duration
		want        weariness
	}{
		{5, 12 << 10, 1000 * time.Millisecond, fresh},
		{10, 19 << 10, 3000 * time.Millisecond, fresh}, // traffic
		{20, 19 << 10, 3100 * time.Millisecond, fresh}, // its last moments
		{25, 19 << 10, 3140 * time.Millisecond, calm},  // idle
		{30, 13 << 10, 3160 * time.Millisecond, fresh}, // the rest was a moment ago and little has come since
		{35, 13<<10 + 500, 3180 * time.Millisecond, fresh},
		{40, 13<<10 + 600, 3200 * time.Millisecond, calm},
		{45, 20 << 10, 3400 * time.Millisecond, fresh},
	} {
		now := start.Add(time.Duration(x.second) * time.Second)
		got := r.due(now, 0, int64(x.kib)<<10, x.cpu)
		if got != x.want {
			t.Errorf("second %d: %v, want %v", x.second, got, x.want)
		}
		if got != fresh {
			r.rested(now, 13<<20)
		}
	}
}
