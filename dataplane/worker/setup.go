// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"net/netip"
	"sync/atomic"

	"sidecar/dataplane/conn"
	"sidecar/dataplane/exchange"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/listener"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/tunnel"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/accesslog"
)

// Worker is one worker.
type Worker struct {
	// Immutable
	Loop    *loop.Loop
	shared  *Shared
	load    LoadSlot // nil without steering
	flushIn sys.Nanos
	// drainTime and drainNow are --drain-time-s and --drain-strategy immediate.
	drainTime sys.Nanos
	drainNow  bool

	// Worker
	drains    drains
	plan      *Plan
	next      *Plan
	answers   []filter.Demand // of this turn
	listeners map[string]*listener.Listener
	byDst     map[sys.Addr]*listener.Listener
	up        *upstream.Manager
	http      *exchange.Env
	tcp       *tunnel.Env
	tls       *conn.TLS
	told      uint64    // handshakes: what begun says
	swept     sys.Nanos // when tls forgot what nobody used
	offload   Offloader // nil = signatures are made here
	logs      accesslog.Writer
	flush     flusher
	quick     flusher // of sinks with an interval of their own
	trim      trimmer
	even      balance
	stopping  bool

	// Atomic
	epoch atomic.Uint64
	seq   atomic.Uint64
	begun atomic.Uint64 // handshakes
	tally Tally
}

// Config makes a Worker.
type Config struct {
	Index   int
	Kernel  sys.Kernel
	Seed    uint64
	Shared  *Shared
	Load    LoadSlot // may be nil
	LocalIP netip.Addr
	// LogFlush is --file-flush-interval-msec: how long log lines wait at most before they are handed over.
	LogFlush sys.Nanos
	// DrainTime is --drain-time-s: what connections get when their listener or filter chain goes. DrainImmediate is --drain-strategy immediate.
	DrainTime      sys.Nanos
	DrainImmediate bool
	// InternalBuffer is buffer_size_kb of envoy.bootstrap.internal_listener, in bytes.
	InternalBuffer int
	// Ask takes what requests and connections lack to the control side, without blocking; false when that is busy. May be nil.
	Ask func(filter.Demand) bool
}

// New makes a worker; Run drives it.
func New(c Config) (*Worker, error) {
	w := &Worker{shared: c.Shared, load: c.Load, flushIn: c.LogFlush, drainTime: c.DrainTime, drainNow: c.DrainImmediate,
		drains:    drains{chains: map[*snapshot.FilterChain]*ending{}, leaving: map[*listener.Listener]struct{}{}},
		listeners: map[string]*listener.Listener{}, byDst: map[sys.Addr]*listener.Listener{}}
	w.drains.ask = w.drainClose
	lc := loop.Config{Kernel: c.Kernel, Worker: c.Index, Seed: c.Seed}
	if c.Load != nil {
		lc.Load = c.Load
	}
	l, err := loop.New(lc, w.handle)
	if err != nil {
		return nil, err
	}
	w.Loop = l
	w.logs.Worker = c.Index
	w.up = upstream.NewManager(l, c.Index+1)
	empty := &snapshot.Snapshot{}
	w.tls = conn.NewTLS(l, func(s *conn.Signature) bool { return w.offload != nil && w.offload.Offload(w, s) })
	w.up.TLS = w.tls
	w.up.Internal = &conn.Internal{Accept: w.acceptInternal, Buffer: c.InternalBuffer}
	w.http = exchange.NewEnv(l, w.up, c.Index+1, empty)
	w.http.Logs, w.http.LocalIP, w.http.Ask = w, c.LocalIP, c.Ask
	w.tcp = &tunnel.Env{L: l, Up: w.up, Shard: c.Index + 1, Logs: w, Snap: empty, Ask: c.Ask, Splice: true}
	w.flush.init(w, w.logs.Flush)
	w.quick.init(w, w.logs.FlushQuick)
	w.trim.init(w)
	w.even.init(w)
	return w, nil
}

// TLS shakes hands.
func (w *Worker) TLS() *conn.TLS { return w.tls }

// Handshakes is how many TLS handshakes the worker has begun so far. Any thread.
func (w *Worker) Handshakes() uint64 { return w.begun.Load() }

// SetOffloader names who makes slow signatures; before Run.
func (w *Worker) SetOffloader(o Offloader) { w.offload = o }

// sweepTLS is how often contexts, sessions and verifications that nobody used are forgotten.
const sweepTLS = 5 * 60 * sys.Second

// Serve starts the protocol of a filter chain on an accepted connection.
func (w *Worker) Serve(c *conn.Conn, l *listener.Listener, fc *snapshot.FilterChain, info *accesslog.ConnInfo, place *conn.Member) {
	if fc.HTTP != nil {
		s := exchange.NewServer(w.http, c, l.Cfg, fc, info, nil)
		place.Swap(&s.Place)
		if m, on := l.Draining(); on {
			s.Drain(m)
		}
		return
	}
	tunnel.New(w.tcp, c, l.Cfg, fc, info, place)
}

// swap moves what follows the snapshot.
func (w *Worker) swap(old, p *Plan) {
	var was *snapshot.Snapshot
	if old != nil {
		was = old.Snap
	}
	w.http.Snap, w.tcp.Snap = p.Snap, p.Snap
	w.up.Reconcile(was, p.Snap)
	w.http.FailHealth = w.shared.CloseAll.Load()
	if now := w.Loop.Now(); now >= w.swept+sweepTLS {
		w.swept = now
		w.tls.Policy.Sweep()
	}
}

// Log writes an access-log record and makes sure that it reaches its sink in time.
func (w *Worker) Log(loggers []*accesslog.Logger, r *accesslog.Record) {
	w.logs.Log(loggers, r, w.Loop.Rand())
	if w.logs.Dirty() {
		w.flush.arm(w.flushIn)
		if n := w.logs.Soonest(); n > 0 {
			w.quick.arm(sys.Nanos(n))
		}
	}
}

// flusher hands buffered log lines over after the flush interval.
type flusher struct {
	w     *Worker
	flush func()
	task  loop.Task
	timer loop.Timer
}

func (f *flusher) init(w *Worker, flush func()) {
	f.w, f.flush = w, flush
	f.task.Init(f)
	f.timer.Init(&f.task)
}

func (f *flusher) arm(in sys.Nanos) {
	if !f.timer.Armed() {
		f.w.Loop.Arm(&f.timer, f.w.Loop.Now()+in)
	}
}

// Advance flushes.
func (f *flusher) Advance(sys.Nanos) loop.Step {
	if f.timer.Fired() {
		f.w.Loop.Disarm(&f.timer)
		f.flush()
	}
	return loop.Idle
}

// trimEvery is how often a worker's buffer pool gives half of its free buffers back to the heap: what a burst needed is gone a minute or two later.
const trimEvery = 10 * sys.Second

// trimmer trims the buffer pool.
type trimmer struct {
	l     *loop.Loop
	task  loop.Task
	timer loop.Timer
}

func (t *trimmer) init(w *Worker) {
	t.l = w.Loop
	t.task.Init(t)
	t.timer.Init(&t.task)
	t.l.Arm(&t.timer, t.l.Now()+trimEvery)
}

// Advance trims.
func (t *trimmer) Advance(now sys.Nanos) loop.Step {
	if t.timer.Fired() {
		t.l.Bufs.Trim()
		t.l.Arm(&t.timer, now+trimEvery)
	}
	return loop.Idle
}

// shutdown ends everything at once; Run calls it last.
func (w *Worker) shutdown() {
	for _, l := range w.listeners {
		l.Stop()
		l.Drain(conn.DrainNow)
	}
	for l := range w.drains.leaving {
		l.Drain(conn.DrainNow)
	}
	w.up.CloseIdle()
	w.tcp.Close()
	w.tls.Close()
	w.logs.Flush()
	w.Loop.Close()
}

func wildcard(dst sys.Addr) sys.Addr {
	if !dst.IP.IsValid() {
		return sys.Addr{}
	}
	any4 := netip.IPv4Unspecified()
	if dst.IP.Addr().Is6() {
		any4 = netip.IPv6Unspecified()
	}
	return sys.AddrOf(netip.AddrPortFrom(any4, dst.IP.Port()))
}

// Active is the number of requests and tunnels in flight; worker thread only (MsgCall).
func (w *Worker) Active() (requests, tunnels int) { return w.http.Active(), w.tcp.Active() }

// SetFailHealth makes every response say Connection: close (/healthcheck/fail); worker thread only.
func (w *Worker) SetFailHealth(on bool) { w.http.FailHealth = on }
