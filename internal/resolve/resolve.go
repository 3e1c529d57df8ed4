// SPDX-License-Identifier: Apache-2.0

// Package resolve looks up the names of DNS clusters, off the workers: it keeps every watched name fresh, by refresh rate or TTL with jitter,
// backs off on failure, and reports each lookup. It reads the system's resolver configuration and hosts file, or asks given servers.
//
// Limits: 8 lookups at a time in the process, whatever the number of names; 256 addresses for a name; 16 aliases; 6 search domains.
package resolve

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Lookup families, with the numbers of envoy.config.cluster.v3.Cluster.DnsLookupFamily.
const (
	Auto        uint8 = iota // IPv6, and IPv4 when there is none
	V4Only                   // IPv4
	V6Only                   // IPv6
	V4Preferred              // IPv4, and IPv6 when there is none
	All                      // both
)

// Options are the settings of a watch.
type Options struct {
	Servers    []netip.AddrPort // nil: those of the system
	Fallback   bool             // Servers only count when the system has none
	TCP        bool             // ask over TCP only
	NoSearch   bool             // names are complete; no search domains
	Rotate     bool             // begin with a random server
	Timeout    time.Duration    // of one query; 0 = the system's (5 s)
	Tries      int              // rounds over the servers; 0 = the system's (2)
	EDNS       uint16           // EDNS(0) payload size; 0 = no EDNS
	Family     uint8
	Refresh    time.Duration // after a success, and after a failure without FailBase; default 5 s
	FailBase   time.Duration // first backoff interval after a failure; 0 = Refresh, without backoff
	FailMax    time.Duration // largest backoff interval
	Jitter     time.Duration // up to this much is added to Refresh and TTL
	RespectTTL bool          // the smallest TTL of the answer replaces Refresh, unless it is 0
	MinTTL     time.Duration // shorter TTLs count as this
}

// Result is the outcome of one lookup.
type Result struct {
	// Addrs are the addresses in the order of the answer, without repetitions. After a failure they are those of the last success.
	Addrs []netip.Addr
	// TTL is the smallest time to live of the records; 0 for names that did not come from DNS.
	TTL time.Duration
	// Err is why the lookup failed (server failure, timeout): Addrs is what was good before. It is nil when the name authoritatively has no
	// address (NXDOMAIN, no data); Addrs is empty then.
	Err error
}

// ErrClosed is the error of lookups that Close ended.
var ErrClosed = errors.New("resolver is closed")

const (
	parallelMax    = 8
	defaultRefresh = 5 * time.Second
	refreshMin     = time.Millisecond
)

// Config are the parts of a resolver that tests replace. The zero value is the system.
type Config struct {
	ResolvConf string   // default /etc/resolv.conf
	Hosts      string   // default /etc/hosts
	Exchange   Exchange // default: the network
}

// Resolver runs watches. Safe for concurrent use.
type Resolver struct {
	// Immutable
	system   *system
	exchange Exchange
	ctx      context.Context
	stop     context.CancelFunc

	// Locked
	mu      sync.Mutex
	due     []*watch // each watch at most once
	running int      // lookup goroutines; at most parallelMax
	watches map[*watch]struct{}
	closed  bool
	wait    sync.WaitGroup
}

// New makes a resolver. No goroutine runs while nothing is looked up.
func New(c Config) *Resolver {
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.Hosts == "" {
		c.Hosts = "/etc/hosts"
	}
	if c.Exchange == nil {
		c.Exchange = network
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Resolver{system: newSystem(c.ResolvConf, c.Hosts), exchange: c.Exchange, ctx: ctx, stop: stop, watches: map[*watch]struct{}{}}
}

// watch is one watched name. Its lookups never overlap.
type watch struct {
	name string
	o    Options
	fn   func(Result)

	// Lookup goroutine
	good     []netip.Addr
	failures int

	// Locked by Resolver.mu
	timer  *time.Timer
	ended  bool
	ctx    context.Context
	cancel context.CancelFunc
}

// Watch looks up name now and again until the returned function is called, and calls fn with every outcome, from one goroutine at a time. fn
// must not block: it hands the result to a queue. After cancel has returned fn is not called again, except for a call that is under way.
// A name that is an address is reported once.
func (r *Resolver) Watch(name string, o Options, fn func(Result)) (cancel func()) {
	if o.Refresh <= 0 {
		o.Refresh = defaultRefresh
	}
	w := &watch{name: name, o: o, fn: fn}
	w.ctx, w.cancel = context.WithCancel(r.ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		w.cancel()
		return func() {}
	}
	r.watches[w] = struct{}{}
	r.enqueue(w)
	return func() { r.end(w) }
}

func (r *Resolver) end(w *watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.ended = true
	w.cancel()
	if w.timer != nil {
		w.timer.Stop()
	}
	delete(r.watches, w)
	if i := slices.Index(r.due, w); i >= 0 {
		r.due = slices.Delete(r.due, i, i+1)
	}
}

// Close ends all watches and waits until no lookup is under way. It must not be called from a callback.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	for w := range r.watches {
		w.ended = true
		w.cancel()
		if w.timer != nil {
			w.timer.Stop()
		}
	}
	clear(r.watches)
	r.due = nil
	r.mu.Unlock()
	r.stop()
	r.wait.Wait()
}

// enqueue makes w due; r.mu is held.
func (r *Resolver) enqueue(w *watch) {
	r.due = append(r.due, w)
	if r.running < parallelMax {
		r.running++
		r.wait.Go(r.work)
	}
}

// work looks up what is due until nothing is.
func (r *Resolver) work() {
	for {
		r.mu.Lock()
		if len(r.due) == 0 {
			r.running--
			r.mu.Unlock()
			return
		}
		w := r.due[0]
		r.due = slices.Delete(r.due, 0, 1)
		r.mu.Unlock()
		r.run(w)
	}
}

// run looks up w once, reports, and schedules the next time.
func (r *Resolver) run(w *watch) {
	res, fixed := r.lookup(w.ctx, w.name, &w.o)
	if res.Err == nil {
		w.good, w.failures = res.Addrs, 0
	} else {
		w.failures++
		res.Addrs = w.good
	}
	r.mu.Lock()
	ended := w.ended
	r.mu.Unlock()
	if ended {
		return
	}
	w.fn(res)
	if fixed {
		return
	}
	delay := w.next(res, rand.Int64N)
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.ended {
		return
	}
	w.timer = time.AfterFunc(delay, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !w.ended {
			r.enqueue(w)
		}
	})
}

// next is the time until the next lookup. random(n) returns a number in [0, n).
func (w *watch) next(res Result, random func(int64) int64) time.Duration {
	if res.Err != nil {
		return w.backoff(random)
	}
	d := w.o.Refresh
	if w.o.RespectTTL && res.TTL > 0 {
		d = max(res.TTL, w.o.MinTTL)
	}
	if w.o.Jitter > 0 {
		d += time.Duration(random(int64(w.o.Jitter)))
	}
	return max(d, refreshMin)
}

// backoff doubles from FailBase to FailMax; each wait is a random part of its interval.
func (w *watch) backoff(random func(int64) int64) time.Duration {
	if w.o.FailBase <= 0 {
		return max(w.o.Refresh, refreshMin)
	}
	d := w.o.FailBase
	for i := 1; i < w.failures && d < w.o.FailMax; i++ {
		d *= 2
	}
	d = min(d, max(w.o.FailMax, w.o.FailBase))
	return max(time.Duration(random(int64(d))), refreshMin)
}
