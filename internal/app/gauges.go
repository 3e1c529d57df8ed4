// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"sync"
	"time"

	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// Ids of processDef.
const (
	processSteeringMode = iota
	processWorkerPanics
)

// processDef is what Envoy has no stats for, under "sidecar.".
var processDef = &stats.Def{Name: "process", Stats: []stats.Stat{
	{Name: "steering_mode", Kind: stats.Gauge},   // rung of the ladder: 0 eBPF, 1 eBPF select, 2 SO_INCOMING_CPU, 3 classic BPF, 4 plain
	{Name: "worker_panics", Kind: stats.Counter}, // connections closed after an internal error
}}

// flushStats ends a statistics interval: it updates the gauges that nobody pushes, as Envoy does at stats_flush_interval.
func (a *App) flushStats() {
	a.stateGauges()
	a.server.Set(stats.ServerUptime, int64(time.Since(a.started).Seconds()))
	a.server.Set(stats.ServerTotalConnections, a.connections())
	if days, ok := a.ctl.FirstExpiry(); ok {
		a.server.Set(stats.ServerDaysUntilFirstCertExpiring, int64(days))
	}
	m := readMemory()
	a.server.Set(stats.ServerMemoryAllocated, m.allocated)
	a.server.Set(stats.ServerMemoryHeapSize, m.heap)
	a.server.Set(stats.ServerMemoryPhysicalSize, m.resident)
	a.reg.Flush()
	a.restIfWorthIt(m.resident)
}

// connections is the number of open downstream connections as the listeners count them.
func (a *App) connections() int64 {
	var n int64
	a.reg.Each(func(s *stats.Scope) {
		if s.Def == stats.ListenerDef {
			v, _ := s.Value(stats.ListenerDownstreamCxActive)
			n += v
		}
	})
	return n
}

// memory is what the process holds, in bytes.
type memory struct {
	allocated int64 // live and not yet collected objects
	heap      int64 // mapped for the heap
	unmapped  int64 // of the heap, given back to the system
	free      int64 // of the heap, free or not yet used, kept for reuse
	total     int64 // everything the Go runtime has mapped
	threads   int64 // allocation caches of threads
	resident  int64 // resident set
}

func readMemory() memory {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/metadata/mcache/inuse:bytes"}}
	metrics.Read(s) // does not stop the world, unlike ReadMemStats
	v := func(i int) int64 { return int64(s[i].Value.Uint64()) }
	m := memory{allocated: v(0), free: v(1) + v(3), unmapped: v(2), total: v(4), threads: v(5)}
	m.heap = m.allocated + m.free
	m.resident = residentBytes()
	return m
}

func residentBytes() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(string(f[1]), 10, 64)
	return n * int64(os.Getpagesize())
}

// Bounds of giving memory back.
const (
	// firstRest is when what starting up has left is given back, after the process is live: there is 20 MiB of it, and the first traffic comes in about
	// this time at the earliest.
	firstRest = 200 * time.Millisecond
	// restGrowth is how far the resident set grows over the last rest before another one is worth its collection, after a change of
	// configuration.
	restGrowth = 6 << 20
	// restEvery is the least time between two rests.
	restEvery = 30 * time.Second
	// calmGrowth and calmEvery are the same for a process that does nothing, whose collection disturbs nobody.
	calmGrowth = 512 << 10
	calmEvery  = 8 * time.Second
	// calmShare is the part of the time between two flushes that a process uses a CPU when it does nothing: a hundredth.
	calmShare = 100
)

// weariness is what a rest has to give back.
type weariness uint8

const (
	fresh weariness = iota
	calm            // garbage of traffic that has ended: freed connections, grown tables, buffers
	tired           // garbage of compiling a configuration, and pages of code that ran once
)

// resting decides when to give memory back. Safe for concurrent use.
type resting struct {
	mu       sync.Mutex
	at       time.Time // of the last rest; zero before the first
	resident int64     // after it
	epoch    uint64
	quiet    int // flushes since the configuration changed last; -1 = rested since
	flushed  time.Time
	cpu      time.Duration // of the process, at the last flush
	idle     bool          // the process did nothing between the last two flushes
}

// rest gives memory back.
func (a *App) rest(w weariness) {
	debug.FreeOSMemory()
	if w == tired {
		sys.ReleaseText()
	}
	a.resting.rested(time.Now(), residentBytes())
}

func (r *resting) rested(now time.Time, resident int64) {
	r.mu.Lock()
	r.at, r.resident = now, resident
	r.mu.Unlock()
}

// restIfWorthIt is called at each flush.
func (a *App) restIfWorthIt(resident int64) {
	if w := a.resting.due(time.Now(), a.fleet.Adopted(), resident, sys.ProcessCPU()); w != fresh {
		go a.rest(w)
	}
}

// due is asked at each flush, after the first rest. It says tired once for each time the configuration changed, when that has been quiet for two
// flushes; and calm when the process did nothing since the last flush. Both want growth over the last rest, which must be a while ago.
func (r *resting) due(now time.Time, epoch uint64, resident int64, cpu time.Duration) weariness {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = cpu-r.cpu < now.Sub(r.flushed)/calmShare
	r.flushed, r.cpu = now, cpu
	if epoch != r.epoch {
		r.epoch, r.quiet = epoch, 0
		return fresh
	}
	if r.at.IsZero() {
		return fresh
	}
	if r.quiet >= 0 {
		r.quiet++
		grown := resident > r.resident+restGrowth
		if r.quiet >= 2 && (!grown || now.Sub(r.at) >= restEvery) {
			r.quiet = -1
			if grown {
				return tired
			}
		}
	}
	if r.idle && resident > r.resident+calmGrowth && now.Sub(r.at) >= calmEvery {
		return calm
	}
	return fresh
}
