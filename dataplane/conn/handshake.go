// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"

	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls"
	"sidecar/dataplane/transport/tls/policy"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

const (
	// maxShakes bounds the handshakes of one worker that hold a stack. Beyond it the oldest fails: a good peer is done within a round trip or two, so
	// it is the stalled ones that go.
	maxShakes = 4096
	// stepsPerTurn is how many handshake steps one turn runs: each may take a quarter of a millisecond, while other connections wait. A turn costs about
	// a microsecond.
	stepsPerTurn = 1
)

// timedOutDetails is %CONNECTION_TERMINATION_DETAILS% after transport_socket_connect_timeout.
const timedOutDetails = "transport socket timeout was reached"

// What TransportFailure says when TLS itself did not fail.
var (
	ErrHandshakeTimeout = errors.New("handshake timeout")
	ErrHandshakeEvicted = errors.New("too many handshakes")
	ErrHandshakeClosed  = errors.New("closed by the peer during the handshake")
)

// TLS runs the handshakes of one worker: a few steps each turn, first come, first served.
type TLS struct {
	// Immutable
	Engine tls.Engine
	Policy *policy.Worker
	l      *loop.Loop
	// offload takes a signature to another thread, which brings it back through the mailbox to Signed; false when it cannot. Nil signs at once.
	offload func(*Signature) bool

	// Worker
	task   loop.Task
	slab   loop.Slab[shake]
	queue  shakes // have something to do
	age    shakes // hold a stack, oldest first
	limit  int    // maxShakes; less in tests
	turn   uint64 // in which left was set
	left   int    // steps left in this turn
	counts TLSCounts
}

// TLSCounts are a worker's handshakes; the owner thread reads them.
type TLSCounts struct {
	Begun, Done, Failed, Timeout, Evicted, Signatures uint64
	Active                                            int // that hold a stack
}

// NewTLS makes the handshakes of l.
func NewTLS(l *loop.Loop, offload func(*Signature) bool) *TLS {
	w := &TLS{Engine: tls.Engine{Worker: l.Worker(), Pool: &l.Bufs}, l: l, offload: offload, limit: maxShakes}
	w.Policy = policy.NewWorker(policy.On(&w.Engine, policy.ClockOf(l.Wall)))
	w.task.Init(w)
	w.queue.of, w.age.of = inQueue, inAge
	return w
}

// Begun is how many handshakes have taken a stack so far.
func (w *TLS) Begun() uint64 { return w.counts.Begun }

// Counts are the numbers so far.
func (w *TLS) Counts() TLSCounts {
	w.counts.Active = w.age.n
	return w.counts
}

// SecretMissing is the transport failure of a connection whose TLS context is not ready, in Envoy's words.
const SecretMissing = "TLS_error:_Secret_is_not_supplied_by_SDS"

// Accept starts TLS on an accepted connection; false when ctx lacks a secret still. What comes of it is written to info; a handshake that misses its
// timeout counts in b (stats.ListenerDef), what comes of it in ssl (stats.SSLDef); both may be nil.
func (w *TLS) Accept(c *Conn, ctx *policy.Server, timeout sys.Nanos, info *accesslog.ConnInfo, b, ssl *stats.Block) bool {
	cfg := w.Policy.Server(ctx)
	if cfg == nil {
		return false
	}
	c.StartTLS(w, w.Engine.Server(cfg), timeout)
	c.x.sec.sh.info, c.x.sec.sh.block, c.x.sec.ssl = info, b, ssl
	return true
}

// Connect starts TLS on a dialled connection, for t; false when ctx lacks a secret still. What comes of it counts in ssl (stats.SSLDef), which may be nil.
func (w *TLS) Connect(c *Conn, ctx *policy.Client, t *policy.Target, ssl *stats.Block) bool {
	cfg := w.Policy.Client(ctx, t)
	if cfg == nil {
		return false
	}
	c.StartTLS(w, w.Engine.Client(cfg), 0)
	c.x.sec.ssl = ssl
	return true
}

// Close unwinds the handshakes that are left and frees all stacks; nothing may shake hands afterwards.
func (w *TLS) Close() {
	for h := w.age.head; h != nil; h = h.links[inAge].next {
		h.c.x.sec.s.Abort()
	}
	w.Engine.Close()
}

// shake is a handshake under way.
type shake struct {
	task     loop.Task // woken by the timer only
	timer    loop.Timer
	c        *Conn
	links    [2]link // of TLS.queue and TLS.age
	sig      *Signature
	info     *accesslog.ConnInfo // may be nil
	block    *stats.Block        // may be nil
	readable bool                // the socket may have input
	bound    bool                // task and timer are initialised
}

type link struct {
	next, prev *shake
	in         bool
}

// The lists that a shake may be in.
const (
	inQueue = iota
	inAge
)

// shakes is a list.
type shakes struct {
	head, tail *shake
	of         int
	n          int
}

func (s *shakes) push(h *shake) {
	x := &h.links[s.of]
	if x.in {
		return
	}
	x.in, x.prev, x.next = true, s.tail, nil
	if s.tail != nil {
		s.tail.links[s.of].next = h
	} else {
		s.head = h
	}
	s.tail = h
	s.n++
}

func (s *shakes) remove(h *shake) {
	x := &h.links[s.of]
	if !x.in {
		return
	}
	if x.prev != nil {
		x.prev.links[s.of].next = x.next
	} else {
		s.head = x.next
	}
	if x.next != nil {
		x.next.links[s.of].prev = x.prev
	} else {
		s.tail = x.prev
	}
	*x = link{}
	s.n--
}

func (w *TLS) shake(c *Conn, timeout sys.Nanos) *shake {
	h := w.slab.Get()
	if !h.bound {
		h.bound = true
		h.task.Init(h)
		h.timer.Init(&h.task)
	}
	h.c, h.sig, h.readable = c, nil, false
	if timeout > 0 {
		w.l.Arm(&h.timer, w.l.Now()+timeout)
	}
	return h
}

// drop forgets a handshake that is over.
func (w *TLS) drop(h *shake) {
	w.l.Disarm(&h.timer)
	w.l.Cancel(&h.task)
	w.queue.remove(h)
	w.age.remove(h)
	if h.sig != nil {
		h.sig.c = nil
	}
	h.c, h.sig, h.info, h.block = nil, nil, nil, nil
	w.slab.Put(h)
}

// push has h run soon.
func (w *TLS) push(h *shake) {
	w.queue.push(h)
	w.l.Ready(&w.task)
}

// Advance runs handshake steps until the turn's share is used up.
func (w *TLS) Advance(sys.Nanos) loop.Step {
	if t := w.l.Stats().Turns; t != w.turn {
		w.turn, w.left = t, stepsPerTurn
	}
	w.l.Hurry()
	for h := w.queue.head; h != nil; h = w.queue.head {
		if w.left == 0 {
			w.l.Later(&w.task)
			return loop.Idle
		}
		w.queue.remove(h)
		if w.step(h) {
			w.left--
		}
	}
	return loop.Idle
}

// Advance is the timeout.
func (h *shake) Advance(sys.Nanos) loop.Step {
	if h.c != nil && h.timer.Fired() {
		w := h.c.x.sec.w
		w.counts.Timeout++
		if h.block != nil {
			h.block.Inc(stats.ListenerDownstreamCxTransportSocketConnectTimeout)
		}
		if h.info != nil {
			h.info.Own().Termination = timedOutDetails
		}
		h.c.shakeFailed(sys.ETIMEDOUT, ErrHandshakeTimeout)
	}
	return loop.Idle
}

// Poison: the timeout has no state of its own.
func (h *shake) Poison(any) {
	if h.c != nil {
		h.c.shakeFailed(sys.EPROTO, nil)
	}
}

// step reads and goes on with a handshake; true when that cost more than a look.
func (w *TLS) step(h *shake) bool {
	c := h.c
	x := c.x.sec
	worked, end := false, Blocked
	for c.fl&fShaking != 0 && x.sh == h {
		if x.s.State() == tls.Signing {
			if h.sig == nil || !h.sig.done { // input does not go on with a handshake that waits for a signature
				return worked
			}
			job := h.sig.job
			h.sig = nil
			x.shook(c, job.Done(x.raw))
			worked = true
		} else if x.s.Ready(x.raw) {
			if x.s.State() == tls.Fresh {
				w.admit(h)
			}
			x.shook(c, x.s.Shake(x.raw))
			worked = true
		} else if end != Blocked || !h.readable {
			break
		} else {
			end = x.more(c, h)
			continue
		}
		w.settle(h)
	}
	if c.fl&fShaking != 0 && x.sh == h {
		switch end {
		case EOF:
			c.shakeFailed(sys.ECONNRESET, ErrHandshakeClosed)
		case Failed:
			c.shakeFailed(c.err, nil)
		}
	}
	return worked
}

// more reads ciphertext behind raw.
func (x *secure) more(c *Conn, h *shake) Status {
	b := c.l.Scratch(c)[:shakeRead]
	defer c.l.DropScratch(c)
	n, e := c.recvFrom(b)
	for e == sys.EINTR {
		n, e = c.recvFrom(b)
	}
	if n <= 0 || e != 0 {
		h.readable = false
		switch e {
		case 0:
			return EOF
		case sys.EAGAIN:
			return Blocked
		}
		c.err = e
		return Failed
	}
	x.raw = append(c.l.Bufs.Grow(x.raw, n), b[:n]...)
	h.readable = n == len(b) || c.fl&fRDHup != 0
	return Blocked
}

// shook drops what the session took of raw.
func (x *secure) shook(c *Conn, n int) {
	x.raw = x.raw[:copy(x.raw, x.raw[n:])]
	if len(x.raw) == 0 {
		x.dropRaw(c)
	}
}

// admit gives h a stack, at the cost of the oldest handshake when there are too many.
func (w *TLS) admit(h *shake) {
	if w.age.n >= w.limit {
		w.counts.Evicted++
		w.age.head.c.shakeFailed(sys.ETIMEDOUT, ErrHandshakeEvicted)
	}
	w.age.push(h)
	w.counts.Begun++
}

// settle sends what the session said and follows its state.
func (w *TLS) settle(h *shake) {
	c := h.c
	x := c.x.sec
	switch x.s.State() {
	case tls.Open:
		w.counts.Done++
		c.established()
	case tls.Failed:
		w.counts.Failed++
		c.pass(0) // the alert
		c.shakeFailed(sys.EPROTO, x.s.Err())
	case tls.Signing:
		c.pass(0)
		if j := x.s.Job(); j != nil {
			w.sign(h, j)
		}
	default:
		c.pass(0)
	}
}

// sign hands the signature over, or makes it here.
func (w *TLS) sign(h *shake, j *tls.Job) {
	w.counts.Signatures++
	h.sig = &Signature{w: w, c: h.c, job: j}
	if w.offload == nil || !w.offload(h.sig) {
		j.Run()
		h.sig.done = true
	}
}

// Signature is a private-key operation on its way through another thread.
type Signature struct {
	// Immutable
	w   *TLS
	job *tls.Job

	// Worker
	c    *Conn // nil when the connection ended meanwhile
	done bool
}

// Run does the operation; any thread, once.
func (s *Signature) Run() { s.job.Run() }

// Signed goes on with the handshake that waited; the worker calls it when the signature is back.
func (s *Signature) Signed() {
	s.done = true
	if s.c != nil {
		s.w.push(s.c.x.sec.sh)
	}
}

// established ends a handshake: what the owner sent meanwhile goes out, and it may read.
func (c *Conn) established() {
	x := c.x.sec
	x.done = c.l.Now()
	x.countOpen()
	readable := x.sh.readable
	if x.sh.info != nil {
		x.sh.info.TLS = x.s.Info()
	}
	x.w.drop(x.sh)
	x.sh = nil
	c.fl &^= fShaking
	x.fresh = len(x.raw) > 0
	if readable || x.fresh {
		c.fl |= fReadable
	}
	early := len(x.early)
	x.s.Seal(x.early)
	c.l.Bufs.Put(x.early)
	x.early = nil
	if c.fl&(fShutAfter|fCloseAfter) != 0 {
		x.s.CloseNotify()
	}
	if early == 0 && !c.queued() && x.s.Patient() && c.fl&(fShutAfter|fCloseAfter) == 0 {
		x.held = len(x.s.Out) // tickets travel with the first answer, as in Envoy: a packet less for each connection
	} else {
		c.pass(early) // FIN and Close follow when it is out
	}
	if c.owner != nil {
		c.l.Ready(c.owner)
	}
}

// shakeFailed breaks a connection whose handshake failed.
func (c *Conn) shakeFailed(e sys.Errno, why error) {
	x := c.x.sec
	if x.why == nil {
		x.why = why
	}
	if e == sys.EPROTO {
		x.countFailed(x.why)
	} else if x.ssl != nil && x.s.Info() == nil {
		x.countStaple() // the peer has gone inside of the handshake
	}
	if x.sh.info != nil && e == sys.EPROTO {
		x.sh.info.Own().TransportFailure = tls.FailureText(x.why)
	}
	x.w.drop(x.sh)
	x.sh = nil
	x.s.Abort()
	c.fl &^= fShaking | fConnecting
	c.fail(e)
}

// shaking is Notify during a handshake: the owner hears of the outcome only.
func (c *Conn) shaking(ev sys.Events) {
	h := c.x.sec.sh
	if ev&(sys.EventIn|sys.EventRDHup|sys.EventHup|sys.EventErr) != 0 {
		h.readable = true
		if ev&(sys.EventRDHup|sys.EventHup|sys.EventErr) != 0 {
			c.fl |= fRDHup
		}
		if ev&(sys.EventHup|sys.EventErr) != 0 {
			c.fl |= fHup
		}
	}
	if c.fl&fConnecting != 0 {
		if ev&(sys.EventOut|sys.EventErr|sys.EventHup) != 0 {
			c.fl |= fDecided
			if c.owner != nil {
				c.l.Ready(c.owner)
			}
		}
		return
	}
	if ev&sys.EventOut != 0 {
		c.flushSecure()
	}
	if h.readable && c.fl&fShaking != 0 {
		c.x.sec.w.push(h)
	}
}
