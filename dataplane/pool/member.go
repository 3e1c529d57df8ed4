// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/sys"
	"sidecar/internal/telemetry/stats"
)

// memberState is the life of one pooled connection: connecting → idle ⇄ busy → closed. A draining member is closed when it is released.
type memberState uint8

const (
	mClosed memberState = iota
	mConnecting
	mIdle
	mBusy
)

// Member is one upstream connection. Its address is stable; it lives in the worker's slab. While it is lent, the borrower's task owns the
// connection's readiness; otherwise the member's own.
type Member struct {
	// Worker
	C          *conn.Conn
	Dec        http1.Decoder // decoder of responses; the borrower calls BeginResponse
	pool       *Pool
	next, prev *Member
	task       loop.Task
	timer      loop.Timer
	local      sys.Addr // as the kernel chose it; asked for once
	asked      bool
	addr       int  // 0: the host's address, then its additional ones
	bound      bool // task and timer are initialised: once per slab slot

	id        uint64
	created   sys.Nanos
	connected sys.Nanos
	idleSince sys.Nanos
	usable    sys.Nanos // end of max_connection_duration, 0 = none
	inSeen    uint64    // bytes already counted
	outSeen   uint64
	requests  uint32
	st        memberState
	draining  bool
	over      bool // the last exchange was complete

	k        *mux.Link // HTTP/2: set once the connection is established
	streams  int       // on loan
	unopened int       // of them those that were not opened yet
	gone     bool      // the connection is over; closed when nobody holds a loan that is not opened
}

// ID numbers the connection within the worker (%UPSTREAM_CONNECTION_ID%).
func (m *Member) ID() uint64 { return m.id }

// Requests is how many requests the connection has carried, the present one included.
func (m *Member) Requests() uint32 { return m.requests }

// Reused tells whether the present request is not the first one on the connection.
func (m *Member) Reused() bool { return m.requests > 1 }

// Connect returns when the connection attempt began and ended.
func (m *Member) Connect() (start, done sys.Nanos) { return m.created, m.connected }

// Local is the local address of the connection.
func (m *Member) Local() sys.Addr {
	if !m.asked {
		m.local, m.asked = m.C.Local(), true
	}
	return m.local
}

// Advance runs a member that is not lent: the outcome of a connect, its timeout, an idle connection that became readable, the idle timeout.
func (m *Member) Advance(now sys.Nanos) loop.Step {
	p := m.pool
	step := m.advance(now)
	p.settle()
	return step
}

func (m *Member) advance(now sys.Nanos) loop.Step {
	if m.k != nil {
		return m.drive(now)
	}
	switch m.st {
	case mConnecting:
		done, e := m.C.Connected()
		switch {
		case done && e == 0:
			m.pool.established(m, now)
		case done && m.nextAddress():
		case done:
			m.pool.connectFailed(m, fault.ConnectFailed, e)
		case m.timer.Fired():
			m.pool.block.Inc(stats.ClusterUpstreamCxConnectTimeout)
			m.pool.connectFailed(m, fault.ConnectTimeout, 0)
		}
	case mIdle:
		m.idle(now)
	}
	return loop.Idle
}

// nextAddress goes on with the host's next additional address after a refused one, within the same connect timeout.
func (m *Member) nextAddress() bool {
	p := m.pool
	for m.addr < len(p.host.Extra) {
		a := p.host.Extra[m.addr]
		m.addr++
		if c, e := p.open(m, a); e == 0 {
			m.C.Close()
			m.C, m.inSeen, m.outSeen = c, 0, 0
			return true
		}
	}
	return false
}

func (m *Member) idle(now sys.Nanos) {
	if m.dead() {
		return
	}
	if !m.timer.Fired() {
		return
	}
	p := m.pool
	switch {
	case m.usable > 0 && now >= m.usable:
		p.block.Inc(stats.ClusterUpstreamCxMaxDurationReached)
		m.close(byUs)
	case p.cfg.IdleTimeout > 0 && now-m.idleSince >= p.cfg.IdleTimeout:
		p.block.Inc(stats.ClusterUpstreamCxIdleTimeout)
		m.close(byUs)
	default:
		m.armIdle()
	}
}

// armIdle sets the one timer of an idle member to whatever comes first.
func (m *Member) armIdle() {
	at := m.usable
	if t := m.pool.cfg.IdleTimeout; t > 0 && (at == 0 || m.idleSince+t < at) {
		at = m.idleSince + t
	}
	if at > 0 {
		m.pool.l.Arm(&m.timer, at)
	}
}

// dead looks at a connection that nobody uses and closes it if it is not good for another request. An upstream that sends anything unasked is not
// to be trusted with the next request.
func (m *Member) dead() bool {
	c := m.C
	if !c.Readable() && !c.PeerClosed() {
		return false
	}
	if len(c.In()) > 0 {
		m.unasked()
		return true
	}
	switch c.Fill() {
	case conn.Blocked:
		if !c.PeerClosed() {
			return false
		}
		m.close(byPeer)
	case conn.More:
		m.unasked()
	default:
		m.close(byPeer)
	}
	return true
}

// unasked closes an idle connection on which an answer to nothing has come. A 408 is only how some servers say that they waited long enough.
func (m *Member) unasked() {
	const status = len("HTTP/1.1 ")
	if in := m.C.In(); len(in) < status+3 || string(in[status:status+3]) != "408" {
		m.pool.block.Inc(stats.ClusterUpstreamCxProtocolError)
	}
	m.close(byUs)
}

// closer says who ended a connection.
type closer uint8

const (
	byUs closer = iota
	byPeer
)

// close takes m out of its list, closes the connection, counts it and gives the slot back.
func (m *Member) close(by closer) {
	p := m.pool
	active := m.st == mBusy && !m.over
	p.unlink(m)
	m.CountBytes()
	b := p.block
	b.Inc(stats.ClusterUpstreamCxDestroy)
	switch {
	case by == byUs && active:
		b.Inc(stats.ClusterUpstreamCxDestroyLocal)
		b.Inc(stats.ClusterUpstreamCxDestroyLocalWithActiveRq)
	case by == byUs:
		b.Inc(stats.ClusterUpstreamCxDestroyLocal)
	case active:
		b.Inc(stats.ClusterUpstreamCxDestroyRemote)
		b.Inc(stats.ClusterUpstreamCxDestroyRemoteWithActiveRq)
	default:
		b.Inc(stats.ClusterUpstreamCxDestroyRemote)
	}
	if active {
		b.Inc(stats.ClusterUpstreamCxDestroyWithActiveRq)
	}
	now := p.l.Now()
	b.Dec(stats.ClusterUpstreamCxActive)
	b.Record(stats.ClusterUpstreamCxLengthMs, uint64((now-m.created)/sys.Millisecond))
	b.Record(stats.ClusterUpstreamRqPerCx, uint64(m.requests))
	p.host.CxActive.Add(-1)
	p.cfg.Limits.Connections[p.prio].Add(-1)
	if p.connections() == 0 {
		p.cfg.Limits.Pools[p.prio].Add(-1)
	}
	p.l.Disarm(&m.timer)
	p.l.Cancel(&m.task)
	if m.k != nil {
		m.freeHTTP2()
		m.C.CloseAfterFlush() // a GOAWAY may be on its way
	} else {
		m.C.Close()
	}
	m.C, m.pool, m.st = nil, nil, mClosed
	p.slab.Put(m)
}

// CountBytes adds what went over the wire since the last call to the cluster's counters. It is called when a loan ends; call it in between where a
// request may take long.
func (m *Member) CountBytes() {
	c := m.C
	if d := c.BytesIn - m.inSeen; d > 0 {
		m.pool.block.Add(stats.ClusterUpstreamCxRxBytesTotal, int64(d))
		m.inSeen = c.BytesIn
	}
	if d := c.BytesOut - m.outSeen; d > 0 {
		m.pool.block.Add(stats.ClusterUpstreamCxTxBytesTotal, int64(d))
		m.outSeen = c.BytesOut
	}
}
