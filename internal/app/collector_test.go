// SPDX-License-Identifier: Apache-2.0

package app

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestCollector_WhenHandshakesMakeTheGarbage_ThenCollectionsWaitLonger(t *testing.T) {
	now := time.Unix(1000, 0)
	var done uint64
	var sets []int
	c := &collector{handshakes: func() uint64 { return done }, set: func(n int) { sets = append(sets, n) }, at: now, percent: gcPercent}
	for i, test := range []struct {
		after      time.Duration
		handshakes uint64
		live       uint64
		want       int // in force afterwards
	}{
		{time.Second, 0, 4 << 20, gcPercent},           // control work
		{time.Millisecond, 7, 4 << 20, gcPercent},      // too few to tell
		{100 * time.Millisecond, 40, 4 << 20, 300},     // 400 a second
		{400 * time.Millisecond, 200, 4500 << 10, 300}, // a little more live: not worth a change
		{5 * time.Second, 250, 8 << 20, 150},           // 50 a second
		{time.Second, 50, 1 << 20, maxPercent},         // a tiny heap
		{time.Second, 50, 0, maxPercent},               // nothing
		{time.Second, 5000, 100 << 20, gcPercent},      // a large configuration gives room enough
		{time.Second, 5000, 4 << 20, 300},              //
		{10 * time.Second, 499, 4 << 20, gcPercent},    // fewer than 50 a second
		{0, 10, 4 << 20, 300},                          // the clock stood still
		{2 * time.Minute, 0, 4 << 20, gcPercent},       // they have ended
	} {
		now = now.Add(test.after)
		done += test.handshakes
		before := len(sets)
		c.collected(now, test.live)
		if c.percent != test.want || len(sets) > before && sets[before] != test.want {
			t.Errorf("%d: %d percent, want %d; set %v", i, c.percent, test.want, sets[before:])
		}
	}
}

func TestCollector_WhenTheRuntimeCollects_ThenItLooksEachTime(t *testing.T) {
	var looks, live atomic.Int64
	c := &collector{handshakes: func() uint64 { looks.Add(1); live.Store(int64(liveHeap())); return 0 }, set: func(int) {}, at: time.Now(), percent: gcPercent}
	c.watch()
	for want := int64(1); want <= 3; want++ {
		for end := time.Now().Add(10 * time.Second); looks.Load() < want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d looks, want %d", looks.Load(), want)
			}
			runtime.GC()
		}
	}
	if live.Load() < 1<<10 {
		t.Errorf("the heap has %d bytes", live.Load())
	}
}
