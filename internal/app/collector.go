// SPDX-License-Identifier: Apache-2.0

package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent trades memory for rarer collections. Control work makes few, whatever it is: with 1,000 updates a minute over 500 clusters 150 let RSS
	// swing by 6 MiB and more, 50 by less than 2, at the same CPU time.
	gcPercent = 50
	// shakeGarbage is how much may gather between two collections while TLS handshakes make it, in bytes. crypto/tls allocates 40 to 60 KB for each: with
	// gcPercent and a small configuration a collection would follow every 40th handshake and take a tenth to a fifth of the CPU.
	shakeGarbage = 12 << 20
	// shakeRate is how many handshakes in a second are worth that memory, and shakeLeast how many must have been counted to tell.
	shakeRate, shakeLeast = 50, 8
	// maxPercent bounds what shakeGarbage makes of a tiny heap.
	maxPercent = 1000
)

// collector lets more garbage gather while TLS handshakes make it, and no longer. It looks after each collection, of which there is one every two minutes
// at least. The memory limit of the cgroup stays above it.
type collector struct {
	// Immutable
	handshakes func() uint64 // since the start
	set        func(percent int)

	// Cleanup goroutine
	at      time.Time // of the last collection that was seen
	seen    uint64    // handshakes then
	percent int
}

// collectFor starts to tune the collector, unless the operator has.
func collectFor(handshakes func() uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	c := &collector{handshakes: handshakes, set: func(n int) { debug.SetGCPercent(n) }, at: time.Now(), percent: gcPercent}
	c.watch()
}

// watch has the next collection looked at: it finds an object that nobody holds.
func (c *collector) watch() {
	runtime.AddCleanup(&struct{ _ *collector }{}, func(c *collector) {
		c.collected(time.Now(), liveHeap())
		c.watch()
	}, c)
}

// liveHeap is what the last collection has left, in bytes.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// collected chooses how long the next collection can wait, now that one has left live bytes. A change stops the world for a moment, so small ones are
// not made.
func (c *collector) collected(now time.Time, live uint64) {
	n := c.handshakes()
	many := n - c.seen
	want := gcPercent
	if many >= shakeLeast && many*uint64(time.Second) >= shakeRate*uint64(max(now.Sub(c.at), 1)) {
		want = min(max(int(shakeGarbage*100/max(live, 1)), gcPercent), maxPercent)
	}
	c.at, c.seen = now, n
	if d := want - c.percent; d > c.percent/4 || -d > c.percent/4 {
		c.percent = want
		c.set(want)
	}
}
