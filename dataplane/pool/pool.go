// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"sidecar/dataplane/conn"
	"sidecar/dataplane/fault"
	"sidecar/dataplane/hostset"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/mux"
	"sidecar/dataplane/snapshot"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/stats"
)

// Outcome is the immediate answer of Get.
type Outcome uint8

// The outcomes.
const (
	Ready  Outcome = iota // the waiter has a connection
	Queued                // its task will be woken
	Failed                // the waiter has a fault
)

type waitState uint8

const (
	wNone waitState = iota
	wQueued
	wReady
	wFailed
)

// Waiter is a request's place in a pool. It is embedded in what waits, and serves one Get at a time.
type Waiter struct {
	// Worker
	next, prev *Waiter
	task       *loop.Task
	pool       *Pool
	m          *Member
	errno      sys.Errno
	why        string
	kind       fault.Kind
	st         waitState
}

// Init names the task that is woken with the result, and that owns the connection's readiness while it is lent.
func (w *Waiter) Init(t *loop.Task) { w.task = t }

// Take returns the result, once: a connection, or a fault with the errno if the kernel gave one. Neither means that there is none yet.
func (w *Waiter) Take() (m *Member, k fault.Kind, e sys.Errno) {
	if w.st != wReady && w.st != wFailed {
		return nil, fault.None, 0
	}
	m, k, e = w.m, w.kind, w.errno
	w.m, w.kind, w.errno, w.st, w.pool = nil, fault.None, 0, wNone, nil
	return m, k, e
}

// Why is what a failed transport says about the last fault (%UPSTREAM_TRANSPORT_FAILURE_REASON%), "" if the errno says it all. Valid after Take until
// the next Get.
func (w *Waiter) Why() string { return w.why }

// Waiting tells whether the waiter has neither a result nor been cancelled.
func (w *Waiter) Waiting() bool { return w.st == wQueued }

// Cancel takes the waiter out of the line; a connection that it was given but did not take goes back.
func (w *Waiter) Cancel() {
	switch w.st {
	case wQueued:
		p := w.pool
		p.dequeue(w)
		p.block.Inc(stats.ClusterUpstreamRqCancelled)
		p.settle()
		w.st, w.pool = wNone, nil

	case wReady:
		m := w.m
		w.m, w.st, w.pool = nil, wNone, nil
		if m.k != nil {
			m.ReleaseStream(false)
		} else {
			m.Release(true)
		}
	default:
		w.st, w.kind, w.pool = wNone, fault.None, nil
	}
}

// Config makes a Pool.
type Config struct {
	Loop    *loop.Loop
	Host    *hostset.Host
	Cluster *snapshot.ClusterConfig
	Block   *stats.Block // stats.ClusterDef of the worker
	Prio    int          // 0 default, 1 high
	Slab    *loop.Slab[Member]
	NextID  *uint64 // worker-wide connection numbers
	Mux     *mux.Shared
	Codec   Codec
	Shard   int
	TLS     *conn.TLS
	// SNI and SAN are the server name and the name that the certificate must have because of the requests; "" = as the TLS context says.
	SNI, SAN string
	// Sum is what the pool adds its load to; nil = nobody asks.
	Sum *Load
	// Internal is for hosts behind internal listeners.
	Internal *conn.Internal
}

// Codec is what the connections of a pool speak.
type Codec uint8

// The codecs.
const (
	HTTP1 Codec = iota
	HTTP2       // lent by the stream
	Auto        // what each connection's ALPN agrees on, HTTP/1.1 without (auto_config)
)

// list is an intrusive list of members, newest first.
type list struct {
	head *Member
	n    int
}

// Pool is the connections to one host at one priority. Worker-owned.
type Pool struct {
	// Immutable
	l        *loop.Loop
	host     *hostset.Host
	cfg      *snapshot.ClusterConfig
	block    *stats.Block
	slab     *loop.Slab[Member]
	nextID   *uint64
	tls      *conn.TLS
	internal *conn.Internal
	secure   *policy.Client // nil = plain text
	target   policy.Target
	prio     int
	shared   *mux.Shared
	codec    Codec
	shard    int

	// Worker
	http2      bool // what new connections are expected to speak: with Auto what the last one did, HTTP/2 before the first
	idle       list
	connecting list
	busy       list
	first      *Waiter // the longest waiting
	last       *Waiter
	waiting    int
	active     int // streams: loans
	sum        *Load
	told       Load // what sum has of it
	healthy    bool // the host, see SetHealthy
	ahead      bool // the host's metadata allows connections ahead of requests
	draining   bool
}

// New makes an empty pool.
func New(c Config) *Pool {
	ahead := c.Cluster.Preconnect.Hosts
	return &Pool{l: c.Loop, sum: c.Sum, healthy: true, ahead: ahead == nil || ahead.Match(c.Host.Metadata), shared: c.Mux, codec: c.Codec, http2: c.Codec != HTTP1, shard: c.Shard, host: c.Host, cfg: c.Cluster, block: c.Block, slab: c.Slab, nextID: c.NextID, prio: c.Prio, tls: c.TLS, internal: c.Internal,
		secure: c.Cluster.Transport(c.Host.Metadata), target: policy.Target{Endpoint: c.Host.Key, Hostname: c.Host.Hostname, SNI: c.SNI, SAN: c.SAN, Fallback: offers[c.Codec]}}
}

// offers is what a TLS handshake offers when the context names no protocol.
var offers = [...][]string{HTTP1: {"http/1.1"}, HTTP2: {"h2"}, Auto: {"h2", "http/1.1"}}

// Host is the pool's host.
func (p *Pool) Host() *hostset.Host { return p.host }

// Empty tells whether the pool has no connection and nobody waits.
func (p *Pool) Empty() bool { return p.idle.n+p.connecting.n+p.busy.n+p.waiting == 0 }

// connections is how many connections there are. Limits.Pools counts the pools that have any.
func (p *Pool) connections() int { return p.idle.n + p.connecting.n + p.busy.n }

// Counts returns how many connections are in each state and how many requests wait.
func (p *Pool) Counts() (idle, connecting, busy, waiting int) {
	return p.idle.n, p.connecting.n, p.busy.n, p.waiting
}

// Get finds a connection for w: an idle one at once, else w waits for one that is connecting or becomes free.
func (p *Pool) Get(w *Waiter) Outcome {
	o := p.get(w)
	p.settle()
	return o
}

func (p *Pool) get(w *Waiter) Outcome {
	if p.codec != HTTP1 {
		if m := p.ready(); m != nil {
			if !p.admit() {
				return w.fail(fault.Overflow, 0, p)
			}
			p.lendStream(m, w)
			p.further(maxAhead)
			return Ready
		}
	}
	if p.codec != HTTP2 {
		if o, ok := p.getIdle(w); ok {
			return o
		}
	}
	b := &p.cfg.Breakers[p.prio]
	if p.cfg.Limits.Pending[p.prio].Add(1) > int64(b.MaxPending) {
		p.cfg.Limits.Pending[p.prio].Add(-1)
		p.block.Inc(stats.ClusterUpstreamRqPendingOverflow)
		return w.fail(fault.Overflow, 0, p)
	}
	p.enqueue(w)
	if e := p.grow(); e != 0 {
		// Only this request learns of it; those before it still have connections to wait for.
		p.dequeue(w)
		p.block.Inc(stats.ClusterUpstreamRqPendingFailureEject)
		return w.fail(fault.ConnectFailed, e, p)
	}
	return Queued
}

// short tells whether more requests wait than the connections that are being made can take.
func (p *Pool) short() bool {
	return p.connecting.n*p.expected() < p.waiting
}

// getIdle lends an idle HTTP/1 connection.
func (p *Pool) getIdle(w *Waiter) (o Outcome, ok bool) {
	var next *Member
	for m := p.idle.head; m != nil; m = next {
		next = m.next
		if m.k != nil || m.dead() {
			continue
		}
		if !p.admit() {
			return w.fail(fault.Overflow, 0, p), true
		}
		p.lend(m, w)
		p.further(maxAhead)
		return Ready, true
	}
	return Queued, false
}

func (w *Waiter) fail(k fault.Kind, e sys.Errno, p *Pool) Outcome {
	w.st, w.kind, w.errno, w.pool, w.why = wFailed, k, e, p, ""
	if e == sys.EPROTO { // see open
		w.why = conn.SecretMissing
	}
	return Failed
}

// admit takes a place under max_requests.
func (p *Pool) admit() bool {
	u := &p.cfg.Limits.Requests[p.prio]
	if u.Add(1) > int64(p.cfg.Breakers[p.prio].MaxRequests) {
		u.Add(-1)
		p.block.Inc(stats.ClusterUpstreamRqActiveOverflow)
		return false
	}
	return true
}

// lend hands an idle, admitted member to w.
func (p *Pool) lend(m *Member, w *Waiter) {
	p.unlink(m)
	p.link(&p.busy, m, mBusy)
	p.countLoan(m)
	w.m, w.st, w.pool = m, wReady, p
	m.C.SetOwner(w.task)
}

// countLoan counts a request that gets m.
func (p *Pool) countLoan(m *Member) {
	m.requests++
	p.active++
	b := p.block
	b.Inc(stats.ClusterUpstreamRqTotal)
	b.Inc(stats.ClusterUpstreamRqActive)
	p.host.RqTotal.Add(1)
	p.host.RqActive.Add(1)
	if n := p.cfg.MaxRequestsPerConn; n > 0 && m.requests >= n {
		m.draining = true
		b.Inc(stats.ClusterUpstreamCxMaxRequests)
	}
}

// Release ends the loan. reuse says that the response was complete and both sides keep the connection alive; otherwise the connection is closed.
func (m *Member) Release(reuse bool) { m.release(reuse, byUs) }

// ReleaseDone ends the loan after a complete exchange on a connection that cannot be used again: it does not count as closed with a request.
// ended tells that the peer ended the connection to end its message.
func (m *Member) ReleaseDone(ended bool) {
	m.draining = true
	by := byUs
	if ended {
		by = byPeer
	}
	m.release(true, by)
}

// ReleaseBroken ends the loan of a connection that the peer has ended.
func (m *Member) ReleaseBroken() { m.release(false, byPeer) }

// ReleaseReset ends the loan and the connection with RST: the reset of a tunnel travels on.
func (m *Member) ReleaseReset() {
	m.CountBytes()
	m.C.Reset()
	m.release(false, byUs)
}

func (m *Member) release(reuse bool, by closer) {
	p := m.pool
	m.giveBack(reuse, by)
	p.settle()
}

func (m *Member) giveBack(reuse bool, by closer) {
	p := m.pool
	p.active--
	p.block.Dec(stats.ClusterUpstreamRqActive)
	p.host.RqActive.Add(-1)
	p.cfg.Limits.Requests[p.prio].Add(-1)
	if !reuse || m.draining || p.draining && p.waiting == 0 {
		m.over = reuse
		m.close(by)
		p.refill()
		return
	}
	m.CountBytes()
	p.unlink(m)
	p.makeIdle(m)
}

// makeIdle gives a connection without a request to whoever waits longest, or puts it in the idle list.
func (p *Pool) makeIdle(m *Member) {
	now := p.l.Now()
	m.idleSince = now
	p.link(&p.idle, m, mIdle)
	m.C.SetOwner(&m.task)
	if m.dead() {
		p.refill()
		return
	}
	if m.usable > 0 && now >= m.usable {
		p.block.Inc(stats.ClusterUpstreamCxMaxDurationReached)
		m.close(byUs)
		p.refill()
		return
	}
	for w := p.first; w != nil; w = p.first {
		p.dequeue(w)
		ok := p.admit()
		if ok {
			p.lend(m, w)
		} else {
			w.fail(fault.Overflow, 0, p)
		}
		p.l.Ready(w.task)
		if ok {
			if p.waiting > 0 {
				p.further(maxAhead)
			}
			return
		}
	}
	if p.draining {
		m.close(byUs)
		return
	}
	m.armIdle()
}

// refill starts connections for requests that still wait.
func (p *Pool) refill() {
	for p.short() {
		before := p.connecting.n
		if e := p.dial(); e != 0 {
			p.failAll(fault.ConnectFailed, e, "")
			return
		}
		if p.connecting.n == before {
			return // at the limit of connections
		}
	}
}

// dial starts one connection unless the breakers forbid it; a pool without any connection may always have one, else its requests would wait for
// ever.
func (p *Pool) dial() sys.Errno {
	b := &p.cfg.Breakers[p.prio]
	u := &p.cfg.Limits.Connections[p.prio]
	over := u.Add(1) > int64(b.MaxConnections) ||
		b.MaxConnectionsPerHost > 0 && p.host.CxActive.Load() >= int64(b.MaxConnectionsPerHost)
	if over {
		p.block.Inc(stats.ClusterUpstreamCxOverflow)
		if p.idle.n+p.busy.n+p.connecting.n > 0 {
			u.Add(-1)
			return 0
		}
	}
	m := p.slab.Get()
	if !m.bound {
		m.bound = true
		m.task.Init(m)
		m.timer.Init(&m.task)
	}
	now := p.l.Now()
	m.addr = 0
	c, e := p.open(m, p.host.Addr)
	for e != 0 && m.addr < len(p.host.Extra) {
		a := p.host.Extra[m.addr]
		m.addr++
		c, e = p.open(m, a)
	}
	if e != 0 {
		p.slab.Put(m)
		u.Add(-1)
		p.countConnect()
		p.block.Inc(stats.ClusterUpstreamCxConnectFail)
		p.host.CxConnectFail.Add(1)
		p.block.Inc(stats.ClusterUpstreamCxDestroy)
		p.block.Inc(stats.ClusterUpstreamCxDestroyLocal)
		return e
	}
	*p.nextID++
	m.C, m.pool, m.id, m.asked = c, p, *p.nextID, false
	m.created, m.connected, m.idleSince, m.usable = now, 0, now, 0
	m.inSeen, m.outSeen, m.requests, m.draining, m.over, m.gone = 0, 0, 0, false, false, false
	m.Dec.InitResponse(&p.cfg.H1)
	p.link(&p.connecting, m, mConnecting)
	if p.connections() == 1 {
		p.cfg.Limits.Pools[p.prio].Add(1)
	}
	p.countConnect()
	p.block.Inc(stats.ClusterUpstreamCxActive)
	p.host.CxActive.Add(1)
	if t := p.cfg.ConnectTimeout; t > 0 {
		p.l.Arm(&m.timer, now+t)
	}
	return 0
}

// open dials a; over TLS the connection is up when the handshake is done. Without its secrets a TLS context makes no connection at all.
func (p *Pool) open(m *Member, a sys.Addr) (*conn.Conn, sys.Errno) {
	var c *conn.Conn
	var e sys.Errno
	if _, _, internal := a.Internal(); internal {
		c = conn.DialInternal(p.l, p.internal, a, p.cfg.PassedTo(p.host.Metadata, p.shard), p.cfg.BufferLimit, &m.task)
	} else {
		c, e = conn.Dial(p.l, a, p.dialOpts(a), p.cfg.BufferLimit, &m.task)
	}
	if e == 0 && p.secure != nil && (p.tls == nil || !p.tls.Connect(c, p.secure, &p.target, p.cfg.TLSStats.Block(p.shard))) {
		p.cfg.TLSStats.NotReady(p.shard, stats.SSLSocketFactoryUpstreamNotReady)
		c.Close()
		return nil, sys.EPROTO
	}
	return c, e
}

// dialOpts are the socket options for an address of the given family.
func (p *Pool) dialOpts(a sys.Addr) *sys.DialOpts {
	if p.cfg.DialV6 != nil && a.IP.Addr().Is6() {
		return p.cfg.DialV6
	}
	return &p.cfg.Dial
}

func (p *Pool) countConnect() {
	p.block.Inc(stats.ClusterUpstreamCxTotal)
	if p.codec != Auto {
		p.countCodec()
	}
	p.host.CxTotal.Add(1)
}

// countCodec counts a connection once its codec is known: before it is attempted, or for Auto when the handshake has told.
func (p *Pool) countCodec() {
	if p.http2 {
		p.block.Inc(stats.ClusterUpstreamCxHTTP2Total)
		if sc := p.cfg.H2Scope; sc != nil {
			sc.Block(p.shard).Inc(stats.HTTP2Nghttp2UpstreamConnections) // what a dashboard made for Envoy looks at
		}
	} else {
		p.block.Inc(stats.ClusterUpstreamCxHTTP1Total)
	}
}

// established turns a connecting member into a usable one.
func (p *Pool) established(m *Member, now sys.Nanos) {
	p.l.Disarm(&m.timer)
	p.unlink(m)
	m.connected = now
	if d := p.cfg.MaxConnDuration; d > 0 {
		m.usable = now + d
	}
	p.block.Record(stats.ClusterUpstreamCxConnectMs, uint64((now-m.created)/sys.Millisecond))
	if p.codec == Auto {
		p.agree(m)
	}
	if p.http2 {
		p.startHTTP2(m, now)
		return
	}
	p.makeIdle(m)
	if p.codec == Auto {
		p.refill() // the others that wait were to be streams of this connection
	}
}

// agree learns what a new connection speaks.
func (p *Pool) agree(m *Member) {
	s := m.C.Session()
	p.http2 = s != nil && s.ALPN == "h2"
	p.countCodec()
}

// connectFailed ends a connection attempt. As in Envoy every request that waits in this pool learns of it, because an upstream that refuses one
// connection would let them wait in vain; the exchange tries another host.
func (p *Pool) connectFailed(m *Member, k fault.Kind, e sys.Errno) {
	p.block.Inc(stats.ClusterUpstreamCxConnectFail)
	p.host.CxConnectFail.Add(1)
	by := byPeer
	if k == fault.ConnectTimeout {
		by = byUs
	}
	why := m.C.FailureText()
	m.close(by)
	p.failAll(k, e, why)
}

func (p *Pool) failAll(k fault.Kind, e sys.Errno, why string) {
	for w := p.first; w != nil; w = p.first {
		p.dequeue(w)
		p.block.Inc(stats.ClusterUpstreamRqPendingFailureEject)
		w.fail(k, e, p)
		if why != "" {
			w.why = why
		}
		p.l.Ready(w.task)
	}
}

// Drain closes idle connections now and busy ones when their request is over; requests that wait are still served. The pool can be dropped when
// it is Empty.
func (p *Pool) Drain() {
	p.draining = true
	for p.idle.head != nil {
		p.idle.head.close(byUs)
	}
	for m := p.busy.head; m != nil; m = m.next {
		m.draining = m.draining || m.k != nil // closed when its streams are over
	}
	if p.waiting == 0 {
		for p.connecting.head != nil {
			p.connecting.head.close(byUs)
		}
	}
	p.settle()
}

func (p *Pool) enqueue(w *Waiter) {
	w.st, w.pool, w.m, w.kind = wQueued, p, nil, fault.None
	w.next, w.prev = nil, p.last
	if p.last != nil {
		p.last.next = w
	} else {
		p.first = w
	}
	p.last = w
	p.waiting++
	p.block.Inc(stats.ClusterUpstreamRqPendingTotal)
	p.block.Inc(stats.ClusterUpstreamRqPendingActive)
	p.host.RqPending.Add(1)
}

func (p *Pool) dequeue(w *Waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		p.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		p.last = w.prev
	}
	w.next, w.prev = nil, nil
	p.waiting--
	p.block.Dec(stats.ClusterUpstreamRqPendingActive)
	p.host.RqPending.Add(-1)
	p.cfg.Limits.Pending[p.prio].Add(-1)
}

func (p *Pool) listOf(st memberState) *list {
	switch st {
	case mConnecting:
		return &p.connecting
	case mIdle:
		return &p.idle
	case mBusy:
		return &p.busy
	}
	return nil
}

func (p *Pool) link(l *list, m *Member, st memberState) {
	m.st = st
	m.prev, m.next = nil, l.head
	if l.head != nil {
		l.head.prev = m
	}
	l.head = m
	l.n++
}

func (p *Pool) unlink(m *Member) {
	l := p.listOf(m.st)
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		l.head = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	}
	m.next, m.prev = nil, nil
	l.n--
}
