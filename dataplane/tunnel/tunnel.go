// SPDX-License-Identifier: Apache-2.0

// Package tunnel is the TCP proxy: it connects a downstream connection to a host of a cluster and moves bytes both ways with exact half-close and
// back-pressure. One Tunnel is one connection; it is a state machine that its worker's loop advances.
package tunnel

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/route"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/upstream"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

// Bounds.
const (
	// maxMove is how many bytes one Advance moves in one direction; the rest waits for its turn.
	maxMove = 2 << 20
	// ownAttempts is how many hosts are tried when max_connect_attempts is not configured: nothing was sent, so trying is safe.
	ownAttempts = 3
)

// AccessLogger writes records; implemented by the worker.
type AccessLogger interface {
	Log(loggers []*accesslog.Logger, r *accesslog.Record)
}

// Env is what the tunnels of one worker share. Snap follows the worker's adopted snapshot.
type Env struct {
	L     *loop.Loop
	Up    *upstream.Manager
	Shard int
	Logs  AccessLogger
	Snap  *snapshot.Snapshot

	live int
}

// Active is the number of live tunnels.
func (e *Env) Active() int { return e.live }

type state uint8

const (
	stConnect state = iota // an upstream attempt is under way
	stBackoff              // waiting before the next attempt
	stRelay                // both sides up
	stFlush                // one side is over, the other is being flushed
	stDone
)

// half is one direction.
type half struct {
	bytes uint64
	ended bool // FIN was seen and passed on
}

// Tunnel is one proxied TCP connection.
type Tunnel struct {
	// Immutable
	env *Env
	l   *snapshot.Listener
	fc  *snapshot.FilterChain
	cfg *snapshot.TCPProxy

	// Worker
	task     loop.Task
	idle     loop.Timer
	deadline loop.Timer // max_downstream_connection_duration, back-off, periodic log
	Member   conn.Member
	down     *conn.Conn
	up       upstream.TCP
	cl       *upstream.Cluster
	st       state
	downUp   half // downstream to upstream
	upDown   half
	attempts uint32
	tried    [8]*hostset.Host
	end      sys.Nanos // when the connection's maximum duration is over; 0 = never
	logAt    sys.Nanos // next periodic log; 0 = never
	tcp      *stats.Block
	info     *accesslog.ConnInfo
	rec      accesslog.Record
}

// New takes over a downstream connection. place is the member that it had while its listener filters ran.
func New(env *Env, c *conn.Conn, l *snapshot.Listener, fc *snapshot.FilterChain, info *accesslog.ConnInfo, place *conn.Member) *Tunnel {
	t := &Tunnel{env: env, l: l, fc: fc, cfg: fc.TCP, down: c, info: info, tcp: fc.TCP.Scope.Block(env.Shard)}
	t.task.Init(t)
	t.idle.Init(&t.task)
	t.deadline.Init(&t.task)
	t.up.Init(&t.task)
	t.Member.H = t
	place.Swap(&t.Member)
	c.SetOwner(&t.task)
	env.live++
	t.rec.Reset()
	t.rec.Conn, t.rec.Start, t.rec.Type = info, info.Start, accesslog.TCPConnectionEnd
	t.rec.ClusterRaw = ""
	t.tcp.Inc(stats.TCPDownstreamCxTotal)
	now := env.L.Now()
	if d := t.cfg.MaxDuration; d > 0 {
		t.end = now + d
	}
	if d := t.cfg.LogFlushInterval; d > 0 {
		t.logAt = now + d
	}
	t.armDeadline(0)
	t.connect()
	return t
}

// Chain is the filter chain of the connection.
func (t *Tunnel) Chain() *snapshot.FilterChain { return t.fc }

// Drain: a TCP connection cannot be asked to go; it ends by itself, or now.
func (t *Tunnel) Drain(m conn.DrainMode) {
	if m == conn.DrainNow {
		t.finish(fault.LocalReset, false)
	}
}

// Poison ends the tunnel after a contained panic.
func (t *Tunnel) Poison(any) { t.finish(fault.Bug, false) }

func (t *Tunnel) armDeadline(extra sys.Nanos) {
	at := t.end
	for _, x := range [...]sys.Nanos{t.logAt, extra} {
		if x > 0 && (at == 0 || x < at) {
			at = x
		}
	}
	if at > 0 {
		t.env.L.Arm(&t.deadline, at)
	} else {
		t.env.L.Disarm(&t.deadline)
	}
}

func (t *Tunnel) touch(now sys.Nanos) {
	if d := t.cfg.IdleTimeout; d > 0 {
		t.env.L.Arm(&t.idle, now+d)
	}
}

// connect starts the next attempt, or gives up.
func (t *Tunnel) connect() {
	ref := t.choose()
	row := t.env.Snap.Cluster(ref)
	if ref != nil {
		t.rec.ClusterRaw, t.rec.Cluster = ref.Name, ref.Name
	}
	if row == nil {
		t.tcp.Inc(stats.TCPDownstreamCxNoRoute)
		t.giveUp(fault.ClusterNotFound, 0)
		return
	}
	t.rec.Cluster = row.StatName
	t.cl = t.env.Up.Get(row)
	for {
		q := lb.Query{Rand: t.env.L.Rand(), Tried: t.tried[:min(int(t.attempts), len(t.tried))], AvoidTried: true}
		q.Hash, q.HasHash = t.hash()
		h := t.cl.Pick(&q, t.info.Local)
		if h == nil {
			t.cl.Block.Inc(stats.ClusterUpstreamCxNoneHealthy)
			t.giveUp(fault.NoHealthyUpstream, 0)
			return
		}
		if int(t.attempts) < len(t.tried) {
			t.tried[t.attempts] = h
		}
		t.attempts++
		t.rec.Attempts = t.attempts
		t.rec.UpstreamHost, t.rec.UpstreamHostName = h.Addr, h.Hostname
		k, e := t.cl.ConnectTCP(&t.up, h, &t.task)
		if k == fault.None {
			t.st = stConnect
			t.rec.UpConnStart = t.since()
			return
		}
		t.rec.UpstreamFailure = reason(k, e)
		if k != fault.ConnectFailed || t.attempts >= t.maxAttempts() {
			t.giveUp(k, e)
			return
		}
		if t.backoff() {
			return
		}
	}
}

// maxAttempts is max_connect_attempts; a configured 1 and the default cannot be told apart, and a failed connect is safe to repeat.
func (t *Tunnel) maxAttempts() uint32 { return max(t.cfg.MaxConnectAttempts, ownAttempts) }

func (t *Tunnel) backoff() bool {
	if t.cfg.BackoffBase <= 0 {
		return false
	}
	d := t.cfg.BackoffBase << min(t.attempts-1, 20)
	if d > t.cfg.BackoffMax || d <= 0 {
		d = t.cfg.BackoffMax
	}
	t.st = stBackoff
	t.armDeadline(t.env.L.Now() + 1 + sys.Nanos(t.env.L.Rand()%uint64(d)))
	return true
}

func (t *Tunnel) choose() *route.ClusterRef {
	w := t.cfg.Weighted
	if w == nil {
		return t.cfg.Cluster
	}
	if w.Total == 0 {
		return nil
	}
	r := uint32(t.env.L.Rand() % uint64(w.Total))
	for i := range w.Clusters {
		if r < w.Clusters[i].Weight {
			return w.Clusters[i].Cluster
		}
		r -= w.Clusters[i].Weight
	}
	return nil
}

func (t *Tunnel) hash() (uint64, bool) {
	if len(t.cfg.Hash) == 0 {
		return 0, false
	}
	h, ok, _ := route.HashOf(t.cfg.Hash, nil, t.info.Remote)
	return h, ok
}

func (t *Tunnel) since() int64 { return t.env.L.Wall() - t.rec.Start }

// Advance moves the machine.
func (t *Tunnel) Advance(now sys.Nanos) loop.Step {
	if t.st == stDone {
		return loop.Done
	}
	if t.deadline.Fired() && t.onDeadline(now) {
		return loop.Done
	}
	if t.idle.Fired() {
		t.tcp.Inc(stats.TCPIdleTimeout)
		t.finish(fault.None, false)
		return loop.Done
	}
	switch t.st {
	case stConnect:
		t.onConnect(now)
		if t.st != stRelay {
			t.watchDownstream()
			return loop.Idle
		}
		return t.relay(now)
	case stBackoff:
		t.watchDownstream()
		return loop.Idle
	}
	return t.relay(now)
}

func (t *Tunnel) onDeadline(now sys.Nanos) bool {
	t.env.L.Disarm(&t.deadline)
	if t.end > 0 && now >= t.end {
		t.tcp.Inc(stats.TCPMaxDownstreamConnectionDuration)
		t.rec.Flags |= fault.FlagDT
		t.rec.Details = "max_duration_timeout"
		t.finish(fault.None, false)
		return true
	}
	if t.logAt > 0 && now >= t.logAt {
		t.logAt = now + t.cfg.LogFlushInterval
		t.rec.Type = accesslog.TCPPeriodic
		t.log()
		t.rec.Type = accesslog.TCPConnectionEnd
	}
	t.armDeadline(0)
	if t.st == stBackoff {
		t.connect()
	}
	return t.st == stDone
}

// watchDownstream ends an attempt whose client has gone away altogether.
func (t *Tunnel) watchDownstream() {
	if t.st != stDone && t.down.HungUp() {
		t.rec.Flags |= fault.FlagDC
		t.finish(fault.None, false)
	}
}

func (t *Tunnel) onConnect(now sys.Nanos) {
	done, k, e := t.up.Poll(now)
	if !done {
		return
	}
	if k == fault.None {
		t.st = stRelay
		t.rec.UpConnDone = t.since()
		t.rec.UpstreamLocal = t.up.C.Local()
		t.touch(now)
		if t.cfg.LogOnConnected {
			t.rec.Type = accesslog.TCPUpstreamConnected
			t.log()
			t.rec.Type = accesslog.TCPConnectionEnd
		}
		return
	}
	t.rec.UpstreamFailure = reason(k, e)
	if t.attempts < t.maxAttempts() {
		if !t.backoff() {
			t.connect()
		}
		return
	}
	t.cl.Block.Inc(stats.ClusterUpstreamCxConnectAttemptsExceeded)
	t.giveUp(k, e)
}

// reason is %UPSTREAM_TRANSPORT_FAILURE_REASON% in Envoy's words.
func reason(k fault.Kind, e sys.Errno) string {
	switch {
	case k == fault.ConnectTimeout:
		return "connection_timeout"
	case e != 0:
		return "delayed_connect_error:_" + e.Title()
	}
	return ""
}

// giveUp closes a connection that could not be connected.
func (t *Tunnel) giveUp(k fault.Kind, _ sys.Errno) {
	t.rec.Flags |= k.Row().Flags
	switch k {
	case fault.ConnectFailed, fault.ConnectTimeout, fault.Overflow:
		if k != fault.Overflow {
			t.rec.Flags |= fault.FlagURX
		}
	}
	t.finish(fault.None, false)
}

// relay moves bytes both ways.
func (t *Tunnel) relay(now sys.Nanos) loop.Step {
	before := t.downUp.bytes + t.upDown.bytes
	a := t.move(&t.downUp, t.down, t.up.C)
	if t.st == stDone {
		return loop.Done
	}
	b := t.move(&t.upDown, t.up.C, t.down)
	if t.st == stDone {
		return loop.Done
	}
	if t.downUp.bytes+t.upDown.bytes != before {
		t.touch(now)
	}
	if t.downUp.ended && t.upDown.ended {
		t.finish(fault.None, true)
		return loop.Done
	}
	if a || b {
		return loop.Again
	}
	return loop.Idle
}

// move passes what from has to to, as far as to has room. It returns true when the bound of one Advance was reached.
func (t *Tunnel) move(h *half, from, to *conn.Conn) (more bool) {
	if h.ended {
		if from.Broken() || to.Broken() {
			t.broken(from, to)
		}
		return false
	}
	start := h.bytes
	for h.bytes-start < maxMove {
		in := from.In()
		if len(in) == 0 {
			switch from.Fill() {
			case conn.Blocked:
				if to.Broken() {
					t.broken(from, to)
				}
				return false
			case conn.EOF:
				h.ended = true
				to.CloseWrite()
				return false
			case conn.Failed:
				t.broken(from, to)
				return false
			}
			continue
		}
		room := to.Room()
		if room <= 0 {
			if to.Broken() {
				t.broken(from, to)
			}
			return false
		}
		to.Send(in, nil)
		h.bytes += uint64(len(in))
		from.Discard(len(in))
		if to.Broken() {
			t.broken(from, to)
			return false
		}
	}
	return true
}

// broken handles a reset of either side: it travels to the other one.
func (t *Tunnel) broken(from, to *conn.Conn) {
	bad := from
	if !from.Broken() {
		bad = to
	}
	if bad == t.down {
		t.rec.Flags |= fault.FlagDC
		t.down.Reset()
		t.finish(fault.DownstreamGone, false)
		return
	}
	t.rec.Flags |= fault.FlagUR
	t.rec.UpstreamFailure = "remote_reset"
	t.finish(fault.RemoteReset, false)
}

// finish is the single exit: counters, log, both connections.
func (t *Tunnel) finish(k fault.Kind, flush bool) {
	if t.st == stDone {
		return
	}
	t.st = stDone
	l := t.env.L
	l.Disarm(&t.idle)
	l.Disarm(&t.deadline)
	t.rec.BytesIn, t.rec.BytesOut = t.downUp.bytes, t.upDown.bytes
	t.rec.DownWireIn, t.rec.DownWireOut = t.down.BytesIn, t.down.BytesOut
	if t.up.C != nil {
		t.rec.UpBytesIn, t.rec.UpBytesOut = t.up.C.BytesIn, t.up.C.BytesOut
	}
	t.tcp.Add(stats.TCPDownstreamCxRxBytesTotal, int64(t.down.BytesIn))
	t.tcp.Add(stats.TCPDownstreamCxTxBytesTotal, int64(t.down.BytesOut))
	t.log()
	if t.up.C != nil {
		if k == fault.DownstreamGone {
			t.up.Abort()
		} else {
			t.up.End(k == fault.RemoteReset || t.upDown.ended && !t.downUp.ended, flush)
		}
	}
	switch {
	case t.down.Closed():
	case k == fault.RemoteReset:
		t.down.Reset()
	case flush:
		t.down.CloseAfterFlush()
	default:
		t.down.Close()
	}
	l.Cancel(&t.task)
	t.env.live--
	t.Member.Leave()
}

func (t *Tunnel) log() {
	t.rec.End = t.since()
	t.rec.BytesIn, t.rec.BytesOut = t.downUp.bytes, t.upDown.bytes
	if t.env.Logs != nil && len(t.cfg.AccessLogs) > 0 {
		t.env.Logs.Log(t.cfg.AccessLogs, &t.rec)
	}
}
