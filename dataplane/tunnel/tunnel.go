// SPDX-License-Identifier: Apache-2.0

// Package tunnel is the TCP proxy: it connects a downstream connection to a host of a cluster and moves bytes both ways with exact half-close and
// back-pressure. One Tunnel is one connection; it is a state machine that its worker's loop advances.
package tunnel

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/filter"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/lb"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/pool"
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
	// minRead is the least room for which it is worth to read.
	minRead = 4 << 10
	// ownAttempts is how many hosts are tried when max_connect_attempts asks for fewer: nothing was sent, so trying another host is safe.
	ownAttempts = 3
	// maxTried is how many hosts are remembered to be avoided.
	maxTried = 8
)

// Envoy's words for %DOWNSTREAM_LOCAL_CLOSE_REASON% and %UPSTREAM_LOCAL_CLOSE_REASON%.
const (
	closeConnect  = "tcp_initializion_failure:0"
	closeNoHost   = "tcp_initializion_failure:1"
	closeOverflow = "tcp_initializion_failure:2"
	closeNoRoute  = "tcp_initializion_failure:3"
	closeIdle     = "tcp_session_idle_timeout"
	closeDuration = "max_connection_duration_reached"

	detectedNormal      = "Normal"
	detectedRemoteReset = "RemoteReset"
	detectedLocalReset  = "LocalReset"
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

	// Ask takes a demand to the control side, whose answer comes by Answered; false when it cannot. It must not block. nil: there is nobody to ask.
	Ask func(filter.Demand) bool

	// Splice moves bulk inside the kernel instead of through the worker's scratch.
	Splice bool

	live    int
	tunnels loop.Slab[Tunnel]
	demands filter.Held[*Tunnel]
	pipes   pipes
	http    scratch
}

// Active is the number of live tunnels.
func (e *Env) Active() int { return e.live }

type state uint8

const (
	stConnect state = iota // an upstream attempt is under way
	stDemand               // the cluster was asked for
	stFound                // the answer to that is in
	stAnswer               // CONNECT was sent
	stBackoff              // waiting before the next attempt
	stRelay                // both sides up
	stDone
)

// half is one direction.
type half struct {
	bytes uint64
	pipe  *pipe // bytes in the kernel between the two sockets; nil unless there are any
	burst int   // recent bytes, halved at every pause of the source: many mean bulk
	ended bool  // FIN was seen and passed on
	plain bool  // splice does not work here
}

// maxBurst bounds how long a direction that was bulk is taken for it.
const maxBurst = 1 << 20

func (h *half) count(n int) {
	h.bytes += uint64(n)
	h.burst = min(h.burst+n, maxBurst)
}

// outcome is how a tunnel ended, for both sides' sockets and counters.
type outcome uint8

const (
	endClosed    outcome = iota // FIN on both sides, or closed by us
	endUpstream                 // the upstream side was the last to finish
	endDownReset                // RST from the client: it travels on
	endUpReset                  // RST from upstream: it travels on
	endGone                     // a side that had finished broke: nothing to pass on
)

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
	up       upstream.TCP // of a raw upstream connection
	wait     pool.Waiter  // for a connection to send CONNECT on
	m        *pool.Member // that connection; nil unless it is lent
	s        *mux.Stream  // its stream, if it speaks HTTP/2
	reopened uint8        // attempts that their host did nothing about
	far      *conn.Conn   // the upstream end of the relay
	inSeen   uint64       // bytes of m before it was lent
	outSeen  uint64
	counted  struct{ in, out uint64 } // bytes of down that the statistics have
	cl       *upstream.Cluster
	st       state
	bound    bool // task and timers are initialised
	downUp   half // downstream to upstream
	upDown   half
	last     outcome // how it ends if nothing breaks: who finished last
	moved    uint64  // wire bytes when activity was last looked at
	attempts uint32
	tried    [maxTried]*hostset.Host
	end      sys.Nanos // when the connection's maximum duration is over; 0 = never
	logAt    sys.Nanos // next periodic log; 0 = never
	retryAt  sys.Nanos // stBackoff: when to try again; stDemand: when the wait is over
	demand   filter.Demand
	awaited  *route.ClusterRef // of demand; nil = the next attempt chooses
	tcp      *stats.Block
	info     *accesslog.ConnInfo
	rec      accesslog.Record
}

// New takes over a downstream connection. place is the member that it had while its listener filters ran.
func New(env *Env, c *conn.Conn, l *snapshot.Listener, fc *snapshot.FilterChain, info *accesslog.ConnInfo, place *conn.Member) *Tunnel {
	t := env.tunnels.Get()
	if !t.bound {
		t.bound = true
		t.task.Init(t)
		t.idle.Init(&t.task)
		t.deadline.Init(&t.task)
		t.up.Init(&t.task)
		t.wait.Init(&t.task)
	}
	t.env, t.l, t.fc, t.cfg, t.down, t.info, t.tcp = env, l, fc, fc.TCP, c, info, fc.TCP.Scope.Block(env.Shard)
	t.st, t.downUp, t.upDown, t.moved, t.attempts, t.reopened, t.end, t.logAt, t.retryAt, t.last = stConnect, half{}, half{}, 0, 0, 0, 0, 0, 0, endClosed
	t.counted.in, t.counted.out = 0, 0
	t.Member = conn.Member{H: t}
	place.Swap(&t.Member)
	c.SetOwner(&t.task)
	env.live++
	t.rec.Reset()
	t.rec.Conn, t.rec.Start, t.rec.Type = info, info.Start, accesslog.TCPConnectionEnd
	t.rec.UpstreamDetectedClose = detectedNormal
	t.rec.DynamicMeta = info.Extra().DynamicMeta
	t.tcp.Inc(stats.TCPDownstreamCxTotal)
	now := env.L.Now()
	if d := t.cfg.MaxDuration; d > 0 {
		t.end = now + d
		if j := t.cfg.MaxDurationJitter; j > 0 {
			t.end += sys.Nanos(env.L.Rand() % uint64(j))
		}
	}
	if d := t.cfg.LogFlushInterval; d > 0 {
		t.logAt = now + d
	}
	if t.cfg.LogOnStart {
		t.logAs(accesslog.TCPConnectionStart)
	}
	t.armDeadline(0)
	t.connect()
	return t
}

// Chain is the filter chain of the connection.
func (t *Tunnel) Chain() *snapshot.FilterChain { return t.fc }

// Drain: a TCP connection cannot be asked to go; it ends by itself, or now.
func (t *Tunnel) Drain(m conn.DrainMode) {
	if m == conn.DrainNow || m == conn.DrainEnd {
		t.finish(endClosed)
	}
}

// Poison ends the tunnel after a contained panic.
func (t *Tunnel) Poison(any) {
	t.rec.Flags |= fault.Bug.Row().Flags
	t.finish(endClosed)
}

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
	for {
		h := t.pick()
		if h == nil {
			return
		}
		m, k, e := t.open(h)
		if k == fault.Overflow {
			t.rec.PoolReady = t.since()
			t.giveUp(fault.FlagUO, closeOverflow)
			return
		}
		t.begun(h)
		if k == fault.None {
			t.st = stConnect
			t.rec.UpConnStart = t.since()
			if m != nil {
				t.attach(m)
			}
			return
		}
		if t.failed(k, e) {
			return
		}
	}
}

// pick chooses the host of the next attempt; without one the tunnel is over.
func (t *Tunnel) pick() *hostset.Host {
	ref := t.choose()
	row := t.env.Snap.Cluster(ref)
	if row == nil {
		if !t.await(ref) {
			t.noCluster()
		}
		return nil
	}
	t.rec.ClusterRaw, t.rec.Cluster, t.rec.ClusterMeta = ref.Name, row.StatName, row.Metadata
	t.cl = t.env.Up.Get(row)
	q := lb.Query{Rand: t.env.L.Rand(), Tried: t.tried[:min(int(t.attempts), maxTried)], AvoidTried: true}
	q.Hash, q.HasHash = t.hash()
	h := t.cl.Pick(&q, t.info.OriginalDst())
	if q.InPanic {
		t.cl.Block.Inc(stats.ClusterLbHealthyPanic)
	}
	switch {
	case h == nil:
		t.cl.Block.Inc(stats.ClusterUpstreamCxNoneHealthy)
		t.rec.PoolReady = t.since()
		t.giveUp(fault.FlagUH, closeNoHost)
		return nil
	case t.attempts >= max(t.cfg.MaxConnectAttempts, 1) && t.wasTried(h):
		// An attempt beyond the configured ones is for another host only.
		t.exceeded()
		return nil
	}
	return h
}

func (t *Tunnel) wasTried(h *hostset.Host) bool {
	for _, x := range t.tried[:min(int(t.attempts), maxTried)] {
		if x == h {
			return true
		}
	}
	return false
}

// begun notes an attempt at h.
func (t *Tunnel) begun(h *hostset.Host) {
	if int(t.attempts) < maxTried {
		t.tried[t.attempts] = h
		t.rec.Tried = append(t.rec.Tried, accesslog.Attempt{Host: h.Addr, Name: h.Hostname})
	}
	t.attempts++
	t.rec.Attempts = t.attempts
	t.rec.UpstreamHost, t.rec.UpstreamHostName, t.rec.HostMeta = h.Addr, h.Hostname, h.Metadata
}

// failed notes that an attempt failed; true means that nothing is to be done now.
func (t *Tunnel) failed(k fault.Kind, e sys.Errno) bool {
	t.rec.Flags |= fault.FlagUF
	t.rec.PoolReady = t.since()
	if k == fault.ConnectFailed && e != 0 {
		t.rec.UpstreamFailure = failures.of(e)
	}
	if why := t.why(); why != "" {
		t.rec.UpstreamFailure = why
	}
	if t.attempts >= max(t.cfg.MaxConnectAttempts, ownAttempts) {
		t.exceeded()
		return true
	}
	return t.backoff()
}

// exceeded gives up after the last attempt.
func (t *Tunnel) exceeded() {
	t.cl.Block.Inc(stats.ClusterUpstreamCxConnectAttemptsExceeded)
	t.giveUp(fault.FlagURX, closeConnect)
}

func (t *Tunnel) backoff() bool {
	if t.cfg.BackoffBase <= 0 {
		return false
	}
	d := t.cfg.BackoffBase << min(t.attempts-1, 20)
	if d > t.cfg.BackoffMax || d <= 0 {
		d = t.cfg.BackoffMax
	}
	t.st = stBackoff
	t.retryAt = t.env.L.Now() + 1 + sys.Nanos(t.env.L.Rand()%uint64(d))
	t.armDeadline(t.retryAt)
	return true
}

func (t *Tunnel) choose() *route.ClusterRef {
	if ref := t.awaited; ref != nil {
		t.awaited = nil
		return ref
	}
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

// since is the time since the accept.
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
		if t.st == stAnswer {
			t.rec.Flags |= fault.FlagUF
		}
		t.closeFor(closeIdle)
		return loop.Done
	}
	switch {
	case t.st == stFound:
		t.onFound()
	case t.st == stConnect && t.cfg.Tunneling != nil:
		t.onPool()
	case t.st == stConnect:
		t.onConnect(now)
	}
	if t.st == stAnswer && t.s == nil {
		t.onAnswer(now)
	}
	switch {
	case t.st == stRelay && t.s != nil:
		return t.relayStream(now)
	case t.st == stRelay:
		return t.relay(now)
	}
	return loop.Idle // downstream bytes, and its end, wait in the kernel until upstream is there
}

// closeFor ends the tunnel by our own decision.
func (t *Tunnel) closeFor(why string) {
	t.info.Own().LocalClose = why
	if t.up.C != nil {
		t.rec.UpstreamLocalClose = why
	}
	t.finish(endClosed)
}

func (t *Tunnel) onDeadline(now sys.Nanos) bool {
	t.env.L.Disarm(&t.deadline)
	if t.end > 0 && now >= t.end {
		t.tcp.Inc(stats.TCPMaxDownstreamConnectionDuration)
		t.rec.Flags |= fault.FlagDT
		t.closeFor(closeDuration)
		return true
	}
	if t.logAt > 0 && now >= t.logAt {
		t.logAt = now + t.cfg.LogFlushInterval
		t.logAs(accesslog.TCPPeriodic)
	}
	if now >= t.retryAt {
		switch t.st {
		case stBackoff:
			t.retryAt = 0
			t.connect()
		case stDemand:
			t.late()
		}
	}
	if t.st == stDone {
		return true
	}
	t.armDeadline(t.retryAt)
	return false
}

func (t *Tunnel) onConnect(now sys.Nanos) {
	done, k, e := t.up.Poll(now)
	switch {
	case !done:
	case k != fault.None:
		if !t.failed(k, e) {
			t.connect()
		}
	default:
		t.far = t.up.C
		t.rec.UpConnDone = t.since()
		if t.rec.UpstreamTLS = t.far.Session(); t.rec.UpstreamTLS != nil {
			up, shaken := t.far.HandshakeTimes()
			t.rec.UpTLSDone = t.rec.UpConnDone - int64(now-shaken)
			t.rec.UpConnDone -= int64(now - up)
		}
		t.rec.UpstreamLocal, t.rec.UpstreamRemote = t.far.Local(), t.far.Remote()
		t.established(now)
	}
}

// established starts the relay.
func (t *Tunnel) established(now sys.Nanos) {
	t.st = stRelay
	t.rec.PoolReady = t.since()
	t.touch(now)
	if t.cfg.LogOnConnected {
		t.logAs(accesslog.TCPUpstreamConnected)
	}
}

// giveUp closes a connection that could not be connected.
func (t *Tunnel) giveUp(f fault.Flags, why string) {
	t.rec.Flags |= f
	t.closeFor(why)
}

// relay moves bytes both ways. It is over when both sides have finished and everything is out.
func (t *Tunnel) relay(now sys.Nanos) loop.Step {
	a := t.move(&t.downUp, t.down, t.far, endClosed)
	if t.st == stDone {
		return loop.Done
	}
	b := t.move(&t.upDown, t.far, t.down, endUpstream)
	if t.st == stDone {
		return loop.Done
	}
	if n := t.down.BytesIn + t.down.BytesOut + t.far.BytesIn + t.far.BytesOut; n != t.moved {
		t.moved = n
		t.touch(now)
		t.countBytes()
	}
	if a || b {
		return loop.Again
	}
	return loop.Idle
}

// move passes what from has to to, as far as to has room. It returns true when the bound of one Advance was reached. last is the outcome when this
// direction is the last to finish.
func (t *Tunnel) move(h *half, from, to *conn.Conn, last outcome) (more bool) {
	if h.ended {
		t.drained(from, to)
		return false
	}
	for left := maxMove; left > 0; {
		n, st := t.step(h, from, to)
		left -= n
		switch {
		case st == conn.More:
		case st == conn.Failed:
			t.broken(from, to)
			return false
		case st == conn.EOF:
			h.ended, t.last = true, last
			to.CloseWrite()
			t.drained(from, to)
			return false
		default:
			if !from.MayRead() {
				h.burst /= 2
			}
			if to.Broken() {
				t.broken(from, to)
			}
			return false
		}
	}
	return true
}

// drained looks whether the tunnel is over once a direction has ended: the other one has ended too and the kernel has taken everything.
func (t *Tunnel) drained(from, to *conn.Conn) {
	switch {
	case from.Broken() || to.Broken():
		t.broken(from, to)
	// A peer that breaks the connection after its FIN is found out when something is sent to it, as in Envoy.
	case t.downUp.ended && t.upDown.ended && t.down.Queued() == 0 && t.far.Queued() == 0:
		t.finish(t.last)
	}
}

// gone is the outcome when a side broke after its FIN.
func (t *Tunnel) gone(c *conn.Conn) outcome {
	if c == t.down {
		return endClosed
	}
	return endGone
}

// step moves one portion: More when bytes went, Blocked when there are none or no room.
func (t *Tunnel) step(h *half, from, to *conn.Conn) (int, conn.Status) {
	if t.splices(h, from, to) {
		return t.splice(h, from, to)
	}
	room := to.Room()
	if room <= 0 {
		return 0, conn.Blocked
	}
	if len(from.In()) == 0 {
		if st := from.FillUpTo(max(room, minRead)); st != conn.More {
			return 0, st
		}
	}
	in := from.In()
	to.Send(in, nil)
	n := len(in)
	h.count(n)
	from.Discard(n)
	if to.Broken() {
		return n, conn.Failed
	}
	return n, conn.More
}

// broken handles an error of either side. A reset travels to the other one; a side that has finished already is just gone.
func (t *Tunnel) broken(from, to *conn.Conn) {
	bad, ended := from, false
	if !from.Broken() {
		bad = to
	}
	if bad == t.down {
		ended = t.downUp.ended
	} else {
		ended = t.upDown.ended
	}
	switch {
	case ended || bad.Err() != sys.ECONNRESET:
		t.finish(t.gone(bad))
	case bad == t.down:
		t.info.Own().DetectedClose = detectedRemoteReset
		t.finish(endDownReset)
	case t.m != nil: // Envoy has no words for the reset of a stream here
		t.finish(endUpReset)
	default:
		t.rec.Flags |= fault.FlagUR
		t.rec.UpstreamDetectedClose = detectedRemoteReset
		t.info.Own().DetectedClose = detectedLocalReset
		t.finish(endUpReset)
	}
}

// finish is the single exit: counters, log, both connections.
func (t *Tunnel) finish(o outcome) {
	if t.st == stDone {
		return
	}
	if t.st == stDemand {
		t.env.demands.Leave(t.demand, t)
	}
	t.st = stDone
	l := t.env.L
	l.Disarm(&t.idle)
	l.Disarm(&t.deadline)
	t.countBytes()
	t.logAs(accesslog.TCPConnectionEnd)
	t.env.pipes.drop(l, &t.downUp)
	t.env.pipes.drop(l, &t.upDown)
	t.releaseMember(o)
	if t.up.C != nil {
		if o == endDownReset {
			t.up.Abort()
		} else {
			t.up.End(o != endClosed, false)
		}
	}
	if o == endUpReset {
		t.down.Reset()
	} else {
		t.down.Close()
	}
	l.Cancel(&t.task)
	t.env.live--
	t.Member.Leave()
	t.down, t.far, t.info, t.cl, t.rec.Conn = nil, nil, nil, nil, nil
	t.demand, t.awaited = filter.Demand{}, nil
	clear(t.tried[:])
	t.env.tunnels.Put(t)
}

// logAs writes the record with what is known now.
func (t *Tunnel) logAs(typ accesslog.Type) {
	if t.env.Logs == nil || len(t.cfg.AccessLogs) == 0 {
		return
	}
	r := &t.rec
	r.Type = typ
	if r.StreamID == "" {
		r.StreamID = uuid(t.env.L.Rand(), t.env.L.Rand())
	}
	r.End = t.since()
	if _, shaken := t.down.HandshakeTimes(); shaken > 0 {
		r.Handshake = r.End - int64(t.env.L.Now()-shaken)
	}
	r.BytesIn, r.BytesOut = t.downUp.bytes, t.upDown.bytes
	r.Down.WireIn, r.Down.WireOut = t.down.BytesIn, t.down.BytesOut
	t.upstreamBytes(r)
	t.env.Logs.Log(t.cfg.AccessLogs, r)
}

// countBytes brings the statistics up to date with what went over both connections: after every turn that moved something, as a tunnel may live long. A
// stream's connection counts for itself.
func (t *Tunnel) countBytes() {
	if n := t.down.BytesIn - t.counted.in; n > 0 {
		t.tcp.Add(stats.TCPDownstreamCxRxBytesTotal, int64(n))
	}
	if n := t.down.BytesOut - t.counted.out; n > 0 {
		t.tcp.Add(stats.TCPDownstreamCxTxBytesTotal, int64(n))
	}
	t.counted.in, t.counted.out = t.down.BytesIn, t.down.BytesOut
	switch {
	case t.up.C != nil:
		t.up.CountBytes()
	case t.m != nil && t.s == nil:
		t.m.CountBytes()
	}
}

// uuid is %STREAM_ID% of a TCP connection: a random UUID (RFC 9562 version 4).
func uuid(hi, lo uint64) string {
	var b [36]byte
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 2<<62
	const hex = "0123456789abcdef"
	at := 0
	for i := range 32 {
		if i == 8 || i == 12 || i == 16 || i == 20 {
			b[at] = '-'
			at++
		}
		v := hi
		if i >= 16 {
			v = lo
		}
		b[at] = hex[v>>(60-4*(i%16))&15]
		at++
	}
	return string(b[:])
}

// failureTexts keeps the texts of connect errors, so that a failed connect does not allocate.
type failureTexts map[sys.Errno]string

// failures is filled at start and only read later.
var failures = func() failureTexts {
	m := failureTexts{}
	for e := sys.Errno(1); e < 134; e++ {
		m[e] = "delayed_connect_error:_" + e.Title()
	}
	return m
}()

func (m failureTexts) of(e sys.Errno) string { return m[e] }
