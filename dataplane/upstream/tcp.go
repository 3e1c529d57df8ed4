// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

const secretMissing = conn.SecretMissing

// TCP is one raw connection to a host, with the cluster's breakers, connect timeout and statistics: what a tunnel embeds. One attempt at a time;
// Start may be called again after a failure. The owner calls End exactly once per successful Start.
type TCP struct {
	// Worker
	C         *conn.Conn // nil unless an attempt is under way or the connection is up
	cl        *Cluster
	host      *hostset.Host
	timer     loop.Timer
	started   sys.Nanos
	connected sys.Nanos
	inSeen    uint64
	outSeen   uint64
	why       string // of the last failed attempt
	up        bool
}

// Init binds the connect timer to the tunnel's task, which also owns the connection's readiness.
func (t *TCP) Init(task *loop.Task) { t.timer.Init(task) }

// ConnectTCP starts a connection to h for t, for a request with a name (see ServerName). A fault means that nothing was started: Overflow (max_connections) or ConnectFailed with the errno.
func (c *Cluster) ConnectTCP(t *TCP, h *hostset.Host, name []byte, task *loop.Task) (fault.Kind, sys.Errno) {
	b := c.Block
	u, pending := &c.cfg.Limits.Connections[0], &c.cfg.Limits.Pending[0]
	br := &c.cfg.Breakers[0]
	if pending.Load() >= int64(br.MaxPending) {
		b.Inc(stats.ClusterUpstreamRqPendingOverflow)
		return fault.Overflow, 0
	}
	if u.Add(1) > int64(br.MaxConnections) || br.MaxConnectionsPerHost > 0 && h.CxActive.Load() >= int64(br.MaxConnectionsPerHost) {
		u.Add(-1)
		b.Inc(stats.ClusterUpstreamCxOverflow)
		return fault.Overflow, 0
	}
	o := &c.cfg.Dial
	if c.cfg.DialV6 != nil && h.Addr.IP.Addr().Is6() {
		o = c.cfg.DialV6
	}
	b.Inc(stats.ClusterUpstreamCxTotal)
	h.CxTotal.Add(1)
	conn, e := c.dial(h, o, task)
	t.why = ""
	if ctx := c.cfg.Transport(h.Metadata); e == 0 && ctx != nil &&
		(c.m.TLS == nil || !c.m.TLS.Connect(conn, ctx, c.target(h, name), c.cfg.TLSStats.Block(c.m.shard))) {
		c.cfg.TLSStats.NotReady(c.m.shard, stats.SSLSocketFactoryUpstreamNotReady)
		conn.Close() // never in plain text
		e, t.why = sys.EPROTO, secretMissing
	}
	if e != 0 {
		u.Add(-1)
		b.Inc(stats.ClusterUpstreamCxConnectFail)
		h.CxConnectFail.Add(1)
		b.Inc(stats.ClusterUpstreamCxDestroy)
		b.Inc(stats.ClusterUpstreamCxDestroyLocal)
		return fault.ConnectFailed, e
	}
	t.C, t.cl, t.host, t.up = conn, c, h, false
	t.started, t.connected, t.inSeen, t.outSeen = c.m.l.Now(), 0, 0, 0
	b.Inc(stats.ClusterUpstreamCxActive)
	h.CxActive.Add(1)
	b.Inc(stats.ClusterUpstreamRqPendingTotal)
	b.Inc(stats.ClusterUpstreamRqPendingActive)
	pending.Add(1)
	if d := c.cfg.ConnectTimeout; d > 0 {
		c.m.l.Arm(&t.timer, t.started+d)
	}
	return fault.None, 0
}

// target is what TLS to h is for.
func (c *Cluster) target(h *hostset.Host, name []byte) *policy.Target {
	t := &policy.Target{Endpoint: h.Key, Hostname: h.Hostname}
	sni, san := c.wanted(h, name)
	if sni {
		t.SNI = string(name)
	}
	if san {
		t.SAN = string(name)
	}
	return t
}

// dial starts the connection itself: to a socket, or to an internal listener.
func (c *Cluster) dial(h *hostset.Host, o *sys.DialOpts, task *loop.Task) (*conn.Conn, sys.Errno) {
	if _, _, internal := h.Addr.Internal(); internal {
		return conn.DialInternal(c.m.l, c.m.Internal, h.Addr, c.cfg.PassedTo(h.Metadata, c.m.shard), c.cfg.BufferLimit, task), 0
	}
	return conn.Dial(c.m.l, h.Addr, o, c.cfg.BufferLimit, task)
}

// Poll looks at an attempt under way: done with None means connected; done with a fault means that the attempt is over, counted, and C is nil.
func (t *TCP) Poll(now sys.Nanos) (done bool, k fault.Kind, e sys.Errno) {
	if t.up {
		return true, fault.None, 0
	}
	done, e = t.C.Connected()
	switch {
	case done && e == 0:
		t.cl.m.l.Disarm(&t.timer)
		t.up, t.connected = true, now
		t.cl.Block.Dec(stats.ClusterUpstreamRqPendingActive)
		t.cl.cfg.Limits.Pending[0].Add(-1)
		t.cl.Block.Inc(stats.ClusterUpstreamRqTotal)
		t.cl.Block.Inc(stats.ClusterUpstreamRqActive)
		t.host.RqTotal.Add(1)
		t.host.RqActive.Add(1)
		t.cl.Block.Record(stats.ClusterUpstreamCxConnectMs, uint64((now-t.started)/sys.Millisecond))
		return true, fault.None, 0
	case done:
		k = fault.ConnectFailed
	case t.timer.Fired():
		t.cl.Block.Inc(stats.ClusterUpstreamCxConnectTimeout)
		k = fault.ConnectTimeout
	default:
		return false, fault.None, 0
	}
	t.cl.Block.Inc(stats.ClusterUpstreamCxConnectFail)
	t.cl.Block.Inc(stats.ClusterUpstreamRqPendingFailureEject)
	t.host.CxConnectFail.Add(1)
	t.why = t.C.FailureText()
	t.End(k == fault.ConnectFailed, false)
	return true, k, e
}

// Why is what a failed transport says about the last fault of Poll (%UPSTREAM_TRANSPORT_FAILURE_REASON%); "" if the errno says it all.
func (t *TCP) Why() string { return t.why }

// Connected returns when the attempt started and when it was up.
func (t *TCP) Connected() (start, done sys.Nanos) { return t.started, t.connected }

// Host is the host of the present attempt.
func (t *TCP) Host() *hostset.Host { return t.host }

// CountBytes adds what went over the wire since the last call to the cluster's counters; for long-lived tunnels.
func (t *TCP) CountBytes() {
	if t.C == nil {
		return
	}
	b := t.cl.Block
	if n := t.C.BytesIn - t.inSeen; n > 0 {
		b.Add(stats.ClusterUpstreamCxRxBytesTotal, int64(n))
	}
	if n := t.C.BytesOut - t.outSeen; n > 0 {
		b.Add(stats.ClusterUpstreamCxTxBytesTotal, int64(n))
	}
	t.inSeen, t.outSeen = t.C.BytesIn, t.C.BytesOut
}

// End closes the connection (flushing queued output when flush) and counts the end: by the peer or by us.
func (t *TCP) End(byPeer, flush bool) { t.end(byPeer, true, flush) }

// EndBehind ends a connection whose peer has ended its direction behind ours: no request was on it any more.
func (t *TCP) EndBehind() { t.end(true, false, true) }

func (t *TCP) end(byPeer, asked, flush bool) {
	if t.C == nil {
		return
	}
	t.CountBytes()
	b, h := t.cl.Block, t.host
	b.Inc(stats.ClusterUpstreamCxDestroy)
	if byPeer {
		b.Inc(stats.ClusterUpstreamCxDestroyRemote)
	} else {
		b.Inc(stats.ClusterUpstreamCxDestroyLocal)
	}
	switch asked = asked && t.up; {
	case asked && byPeer:
		b.Inc(stats.ClusterUpstreamCxDestroyWithActiveRq)
		b.Inc(stats.ClusterUpstreamCxDestroyRemoteWithActiveRq)
	case asked:
		b.Inc(stats.ClusterUpstreamCxDestroyWithActiveRq)
		b.Inc(stats.ClusterUpstreamCxDestroyLocalWithActiveRq)
	}
	if t.up {
		b.Dec(stats.ClusterUpstreamRqActive)
		h.RqActive.Add(-1)
	} else {
		b.Dec(stats.ClusterUpstreamRqPendingActive)
		t.cl.cfg.Limits.Pending[0].Add(-1)
	}
	b.Dec(stats.ClusterUpstreamCxActive)
	b.Record(stats.ClusterUpstreamCxLengthMs, uint64((t.cl.m.l.Now()-t.started)/sys.Millisecond))
	h.CxActive.Add(-1)
	t.cl.cfg.Limits.Connections[0].Add(-1)
	t.cl.m.l.Disarm(&t.timer)
	if flush {
		t.C.CloseAfterFlush()
	} else {
		t.C.Close()
	}
	t.C, t.cl, t.up = nil, nil, false
}

// Abort is End with RST: a downstream reset travels on.
func (t *TCP) Abort() {
	if t.C == nil {
		return
	}
	c := t.C
	t.CountBytes()
	c.Reset()
	t.End(false, false)
}
