// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// An HTTP/2 pool lends streams instead of connections: a member is idle without streams and busy with some, and is lent as long as the peer takes
// more. Its own task always owns the connection.

// maxEvents bounds the HTTP/2 events that one connection handles in one Advance.
const maxEvents = 256

// slots is how many more streams m takes.
func (m *Member) slots() int {
	if m.draining || m.k == nil {
		return 0
	}
	return m.k.H2.Slots() - m.unopened
}

// ready finds a connection that takes a stream, nil when there is none.
func (p *Pool) ready() *Member {
	for _, l := range [...]*list{&p.busy, &p.idle} {
		for m := l.head; m != nil; m = m.next {
			if m.slots() > 0 && !m.C.PeerClosed() {
				return m
			}
		}
	}
	return nil
}

// startHTTP2 makes an HTTP/2 connection of m, which has just been established.
func (p *Pool) startHTTP2(m *Member, now sys.Nanos) {
	m.k = p.shared.Links.Get()
	m.k.Init(p.shared, m.C, &m.task, http2.Client, &p.cfg.H2)
	m.idleSince, m.streams, m.unopened = now, 0, 0
	p.link(&p.idle, m, mIdle)
	m.k.Flush(now)
	p.l.Ready(&m.task)
	if p.serve() {
		p.refill()
	}
}

// lendStream gives w a stream of m.
func (p *Pool) lendStream(m *Member, w *Waiter) {
	if m.st == mIdle {
		p.unlink(m)
		p.link(&p.busy, m, mBusy)
	}
	m.streams++
	m.unopened++
	p.countLoan(m)
	w.m, w.st, w.pool = m, wReady, p
}

// serve gives streams to those who wait, longest first. some tells that it did: whoever waits on may need another connection.
func (p *Pool) serve() (some bool) {
	for w := p.first; w != nil; w = p.first {
		m := p.ready()
		if m == nil {
			return some
		}
		some = true
		p.dequeue(w)
		if p.admit() {
			p.lendStream(m, w)
		} else {
			w.fail(fault.Overflow, 0, p)
		}
		p.l.Ready(w.task)
	}
	return some
}

// HTTP2 tells whether the loan is a stream.
func (m *Member) HTTP2() bool { return m.k != nil }

// Open opens the stream of a loan with a request; nil when the connection takes none any more. Call it at most once for a loan.
func (m *Member) Open(h *httpmsg.Head, end bool, u mux.User) *mux.Stream {
	if m.gone {
		return nil
	}
	s := m.k.Request(h, end, u, m.pool.l.Now())
	if s != nil {
		m.unopened--
	}
	return s
}

// ReleaseStream ends the loan of a stream, which the user has finished or aborted before; opened tells that Open made one.
func (m *Member) ReleaseStream(opened bool) {
	p := m.pool
	p.active--
	p.block.Dec(stats.ClusterUpstreamRqActive)
	p.host.RqActive.Add(-1)
	p.cfg.Limits.Requests[p.prio].Add(-1)
	if !opened {
		m.unopened--
	}
	if m.streams--; m.streams == 0 && m.st == mBusy {
		p.unlink(m)
		p.link(&p.idle, m, mIdle)
		m.idleSince = p.l.Now()
	}
	p.settle()
	p.l.Ready(&m.task) // which closes it, gives the place away or arms the idle timeout
}

// drive runs an HTTP/2 connection until it has to wait.
func (m *Member) drive(now sys.Nanos) loop.Step {
	k, p := m.k, m.pool
	if m.gone {
		m.bury(byPeer)
		return loop.Done
	}
	drained := m.draining
	k.Begin()
	if m.timer.Fired() {
		p.l.Disarm(&m.timer)
		k.H2.OnTime(now)
		m.expire(now)
	}
	step := loop.Again
	for range maxEvents {
		if k.Torn() {
			m.lost(now, mux.Gone)
			return loop.Done
		}
		got := k.Next(now)
		if got == mux.Nothing {
			step = loop.Idle
			break
		}
		if got != mux.Event {
			m.lost(now, got)
			return loop.Done
		}
		switch ev := &p.shared.Ev; {
		case ev.Stream != nil:
			k.Deliver(ev, now)
		case ev.Kind == http2.EventGoaway:
			p.block.Inc(stats.ClusterUpstreamCxCloseNotify)
			m.draining = true
		}
	}
	some := p.serve() || m.draining && !drained
	k.Flush(now)
	m.CountBytes()
	m.countHTTP2()
	if m.streams == 0 && (m.draining || p.draining && p.waiting == 0) {
		m.close(byUs)
		p.refill()
		return loop.Done
	}
	if some { // not each turn: an attempt that max_connections forbids counts as upstream_cx_overflow
		p.refill()
	}
	m.rearm(now)
	return step
}

// expire acts on idle_timeout and max_connection_duration.
func (m *Member) expire(now sys.Nanos) {
	p := m.pool
	switch {
	case m.draining:
	case m.usable > 0 && now >= m.usable:
		p.block.Inc(stats.ClusterUpstreamCxMaxDurationReached)
		m.draining = true
	case m.streams == 0 && p.cfg.IdleTimeout > 0 && now-m.idleSince >= p.cfg.IdleTimeout:
		p.block.Inc(stats.ClusterUpstreamCxIdleTimeout)
		m.draining = true
	}
}

// rearm sets the timer to what comes first: the machine's deadlines, the end of the connection's time, the idle timeout.
func (m *Member) rearm(now sys.Nanos) {
	at := m.k.H2.Deadline()
	first := func(t sys.Nanos) {
		if t > 0 && (at == 0 || t < at) {
			at = t
		}
	}
	if !m.draining {
		first(m.usable)
		if t := m.pool.cfg.IdleTimeout; t > 0 && m.streams == 0 {
			first(m.idleSince + t)
		}
	}
	if at > 0 {
		m.pool.l.Arm(&m.timer, max(at, now))
	} else if m.timer.Armed() {
		m.pool.l.Disarm(&m.timer)
	}
}

// lost ends a connection that the peer has ended or whose protocol it has broken: every stream learns of it.
func (m *Member) lost(now sys.Nanos, got mux.Got) {
	p, why, by := m.pool, fault.ConnectionTerminate, byPeer
	active := m.streams > 0
	if got == mux.Failed {
		why, by = p.shared.Ev.Fault, byUs
		if why != fault.H2Timeout {
			p.block.Inc(stats.ClusterUpstreamCxProtocolError)
			active = false // the streams end before the connection does
		}
	}
	m.draining = true // nobody gets a stream of it while its own ones look for another
	m.k.FailAll(why, now)
	if by == byUs {
		m.k.Flush(now)
	}
	m.over, m.gone = !active, true
	m.bury(by)
}

// bury closes a connection that is over, once nobody holds a loan of it any more.
func (m *Member) bury(by closer) {
	p := m.pool
	if m.unopened > 0 {
		return // their tasks are queued
	}
	if !m.over && m.st == mIdle { // it counts as ended with requests
		p.unlink(m)
		p.link(&p.busy, m, mBusy)
	}
	m.close(by)
	p.refill()
}

// Poison ends a connection whose Advance panicked.
func (m *Member) Poison(any) {
	if m.k != nil {
		m.lost(m.pool.l.Now(), mux.Gone)
	}
}

// freeHTTP2 gives back what an HTTP/2 connection holds.
func (m *Member) freeHTTP2() {
	m.k.CountEnd(m.pool.cfg.H2Scope, m.pool.shard)
	m.k.Free()
	m.pool.shared.Links.Put(m.k)
	m.k = nil
}

// countHTTP2 moves what the machine counted to the codec's statistics.
func (m *Member) countHTTP2() { m.k.Count(m.pool.cfg.H2Scope, m.pool.shard) }
