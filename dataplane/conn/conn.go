// SPDX-License-Identifier: Apache-2.0

// Package conn is one byte connection of a worker: socket, unread input, unsent output. It reports readiness and never decides policy: what to do
// with bytes belongs to its owner task. A connection that is idle holds no buffer at all.
package conn

import (
	"math"

	"sidecar/dataplane/buf"
	"sidecar/dataplane/loop"
	"sidecar/dataplane/sys"
)

// Status is the outcome of Fill.
type Status uint8

// The outcomes.
const (
	Blocked Status = iota // nothing to read now; an edge will wake the owner
	More                  // In() has more bytes than before
	EOF                   // the peer has finished sending and every byte was read
	Failed                // the connection is broken; Err tells why
)

type flags uint16

const (
	fReadable   flags = 1 << iota // an edge said so and no short read has disproved it
	fRDHup                        // the peer has finished sending (or everything is over)
	fHup                          // both directions are over
	fEOF                          // recv returned 0
	fFailed                       // err is set
	fConnecting                   // non-blocking connect under way
	fDecided                      // the connect is decided: epoll said writable or failed
	fShutAfter                    // send FIN when the queue is out
	fShut                         // FIN was sent
	fCloseAfter                   // close when the queue is out
	fWantRoom                     // wake the owner on the next writable edge
	fSendFailed                   // a send failed; what the peer sent before may still be read
	fClosed
	fTLS     // x.sec is set: bytes on the wire are ciphertext
	fShaking // the TLS handshake is to be done
	fSoon    // output waits for the end of the turn, see SendSoon; nothing is queued
)

// Conn is one connection. Worker-owned; made by Dial or Adopt. After Close it must not be touched. It is small, because most connections are idle:
// what belongs to bytes in flight is lent by the worker's pool.
type Conn struct {
	// Immutable until Close
	l    *loop.Loop
	x    *extra // nil: accepted and plain
	fd   sys.FD
	slot uint32

	// Worker
	owner *loop.Task
	f     *buf.Flight // nil while no byte is unread or unsent
	limit int32       // output bytes to queue before Room is used up
	fl    flags
	err   sys.Errno

	// BytesIn and BytesOut count what the owner read and what the kernel took, or SendSoon; over TLS plaintext, as Envoy counts.
	BytesIn, BytesOut uint64
}

// extra is what only some connections have.
type extra struct {
	remote sys.Addr // as dialled; zero for accepted ones
	sec    *secure  // nil without TLS
	pipe   *end     // nil with a socket
}

// maxInput bounds the unread input that one connection may hold: the largest head that can be configured (max_request_headers_kb 8192) and a read.
const maxInput = 8<<20 + loop.ScratchSize

// lingerDeadline bounds how long a connection given to CloseAfterFlush may take.
const lingerDeadline = 30 * sys.Second

const interest = sys.EventIn | sys.EventOut | sys.EventRDHup | sys.EventET

// Dial starts a connection to a. The owner is woken when the outcome is there (see Connected). limit is per_connection_buffer_limit_bytes.
func Dial(l *loop.Loop, a sys.Addr, o *sys.DialOpts, limit int, owner *loop.Task) (*Conn, sys.Errno) {
	fd, e := l.K.Connect(a, o)
	if e != 0 {
		return nil, e
	}
	c := &Conn{l: l, fd: fd, limit: bounded(limit), x: &extra{remote: a}, owner: owner, fl: fConnecting}
	return c.register()
}

// Adopt takes an accepted, non-blocking socket; it closes fd when it fails.
func Adopt(l *loop.Loop, fd sys.FD, limit int, owner *loop.Task) (*Conn, sys.Errno) {
	c := &Conn{l: l, fd: fd, limit: bounded(limit), owner: owner}
	return c.register()
}

func (c *Conn) register() (*Conn, sys.Errno) {
	token, e := c.l.Register(c.fd, c, interest)
	if e != 0 {
		c.l.K.Close(c.fd)
		return nil, e
	}
	c.slot = uint32(token)
	return c, 0
}

// SetOwner changes whom readiness wakes. A connection that already has something to report wakes the new owner at once.
func (c *Conn) SetOwner(t *loop.Task) {
	c.owner = t
	if t != nil && c.Readable() {
		c.l.Ready(t)
	}
}

// Notify records an epoll event: it sets bits, flushes the queue on a writable edge, and queues the owner.
func (c *Conn) Notify(ev sys.Events) {
	if c.fl&(fClosed|fShaking) != 0 {
		if c.fl&fClosed == 0 {
			c.shaking(ev)
		}
		return
	}
	wake := false
	if ev&(sys.EventIn|sys.EventRDHup|sys.EventHup|sys.EventErr) != 0 {
		c.fl |= fReadable
		if ev&(sys.EventRDHup|sys.EventHup|sys.EventErr) != 0 {
			c.fl |= fRDHup
		}
		if ev&(sys.EventHup|sys.EventErr) != 0 {
			c.fl |= fHup
		}
		wake = true
	}
	if c.fl&fConnecting != 0 {
		if ev&(sys.EventOut|sys.EventErr|sys.EventHup) != 0 {
			c.fl |= fDecided
			wake = true
		}
	} else if ev&sys.EventOut != 0 {
		if c.queued() {
			wake = c.flush() || wake
		}
		if c.fl&fWantRoom != 0 {
			c.fl &^= fWantRoom
			wake = true
		}
	}
	if wake && c.owner != nil {
		c.l.Ready(c.owner)
	}
}

func (c *Conn) queued() bool { return c.f != nil && c.f.Out != nil }

// flight returns the buffers of bytes in flight, taking them on first use.
func (c *Conn) flight() *buf.Flight {
	if c.f == nil {
		c.f = c.l.Bufs.GetFlight()
	}
	return c.f
}

// land gives the buffers back when no byte is in flight.
func (c *Conn) land() {
	if f := c.f; f != nil && f.Out == nil && len(f.In) == 0 {
		c.f = nil
		c.l.Bufs.PutFlight(f)
	}
}

// Connected reports the outcome of a non-blocking connect and the TLS handshake behind it: not done, or done with an errno (0 = connected; EPROTO and
// others with TransportFailure).
func (c *Conn) Connected() (done bool, e sys.Errno) {
	switch {
	case c.fl&(fConnecting|fShaking) == 0:
		return true, c.err
	case c.fl&(fConnecting|fDecided) != fConnecting|fDecided:
		return false, 0
	case c.fl&fHup != 0: // writable alone means success; only a hang-up leaves the question open
		if e = c.connectResult(); e != 0 {
			c.fl &^= fConnecting
			if c.fl&fShaking != 0 {
				c.shakeFailed(e, nil)
			} else {
				c.fail(e)
			}
			return true, e
		}
	}
	c.fl &^= fConnecting
	if c.fl&fShaking != 0 {
		c.x.sec.up = c.l.Now()
		c.x.sec.w.push(c.x.sec.sh)
		return false, 0
	}
	if c.queued() {
		c.flush()
	} else if c.fl&fShutAfter != 0 {
		c.shut()
	}
	return true, 0
}

// In is the unread input: a view that is valid until the next Fill of any connection of this worker or the end of the running Advance.
func (c *Conn) In() []byte {
	if c.f == nil {
		return nil
	}
	return c.f.In
}

// Fill reads once if there may be something to read. Not calling it is back-pressure: the readable bit stays. Blocked with unread input at its bound
// (8 MiB) means that input must be consumed first.
func (c *Conn) Fill() Status { return c.FillUpTo(loop.ScratchSize) }

// FillUpTo is Fill that reads at most n bytes: for owners that must queue what they read. Over TLS it may be a record more.
func (c *Conn) FillUpTo(limit int) Status {
	switch {
	case c.fl&(fFailed|fClosed) != 0:
		return Failed
	case c.fl&fEOF != 0:
		return EOF
	case c.fl&fReadable == 0:
		return Blocked
	case c.fl&fTLS != 0:
		return c.fillSecure(limit)
	}
	b, ok := c.space()
	if !ok {
		return Blocked
	}
	b = b[:min(len(b), limit)]
	n, e := c.recvFrom(b)
	for e == sys.EINTR {
		n, e = c.recvFrom(b)
	}
	if e != 0 {
		c.land()
		if e == sys.EAGAIN {
			c.fl &^= fReadable
			return Blocked
		}
		c.fail(e)
		return Failed
	}
	if n == 0 {
		c.fl |= fEOF | fRDHup
		c.land()
		return EOF
	}
	c.BytesIn += uint64(n)
	if n < len(b) && c.fl&fRDHup == 0 {
		c.fl &^= fReadable // a short read means drained; RDHUP is in the mask, so a FIN brings another edge
	}
	f := c.flight()
	if f.InBuf == nil {
		f.In = b[:n]
	} else {
		f.InBuf = f.InBuf[:len(f.InBuf)+n]
		f.In = f.InBuf
	}
	return More
}

// space is where the next read goes: the shared scratch, or behind unread input in an own buffer.
func (c *Conn) space() (b []byte, ok bool) {
	f := c.f
	if f == nil || len(f.In) == 0 {
		return c.l.Scratch(c), true
	}
	if len(f.In) >= maxInput {
		return nil, false
	}
	c.Spill()
	if len(f.In) != len(f.InBuf) { // the consumed part is at the front
		f.InBuf = f.InBuf[:copy(f.InBuf, f.In)]
	}
	f.InBuf = c.l.Bufs.Grow(f.InBuf, min(max(len(f.In), 4<<10), 64<<10))
	f.In = f.InBuf
	return f.InBuf[len(f.InBuf):cap(f.InBuf)], true
}

// Spill copies unread input out of the shared scratch; the loop calls it when another connection needs the scratch.
func (c *Conn) Spill() {
	f := c.f
	if f == nil || len(f.In) == 0 || f.InBuf != nil {
		return
	}
	f.InBuf = append(c.l.Bufs.Get(len(f.In)), f.In...)
	f.In = f.InBuf
	c.l.DropScratch(c)
}

// Discard consumes n bytes of In.
func (c *Conn) Discard(n int) {
	if n == 0 {
		return
	}
	f := c.f
	f.In = f.In[n:]
	if len(f.In) == 0 {
		c.dropIn()
		c.land()
	}
}

// dropIn forgets unread input.
func (c *Conn) dropIn() {
	f := c.f
	if f == nil {
		c.l.DropScratch(c)
		return
	}
	f.In = nil
	if f.InBuf != nil {
		c.l.Bufs.Put(f.InBuf)
		f.InBuf = nil
		return
	}
	c.l.DropScratch(c)
}

// dropOut forgets unsent output.
func (c *Conn) dropOut() {
	if f := c.f; f != nil && f.Out != nil {
		c.l.Bufs.Put(f.Out)
		f.Out, f.OutOff, f.Ahead = nil, 0, 0
	}
}

// Unread puts bytes in front of the input, for protocols that hand a connection over after sniffing.
func (c *Conn) Unread(p []byte) {
	if len(p) == 0 {
		return
	}
	b := c.l.Bufs.Get(len(p) + len(c.In()))
	b = append(append(b, p...), c.In()...)
	c.dropIn()
	f := c.flight()
	f.InBuf, f.In = b, b
}

// Readable tells whether an Advance would find unread bytes, an end of stream or an edge that was not read yet.
func (c *Conn) Readable() bool { return len(c.In()) > 0 || c.fl&(fReadable|fFailed) != 0 }

// MayRead tells whether Fill could bring something: it ignores bytes that are already in In.
func (c *Conn) MayRead() bool { return c.fl&(fReadable|fFailed|fEOF) != 0 }

// Send sends a, then b, in one system call, behind whatever is queued. What the socket does not take is copied and goes out on the writable edge.
// Errors show in Err and wake the owner.
func (c *Conn) Send(a, b []byte) {
	if c.fl&(fFailed|fSendFailed|fClosed|fShut|fShutAfter) != 0 {
		return
	}
	c.Settle()
	if c.fl&fTLS != 0 {
		c.sendSecure(a, b)
		return
	}
	if !c.queued() && c.fl&fConnecting == 0 {
		n, e := c.sendNow(a, b)
		if e != 0 && e != sys.EAGAIN && e != sys.EINTR {
			c.failSend(e)
			return
		}
		if n == len(a)+len(b) {
			return
		}
		if n < len(a) {
			a = a[n:]
		} else {
			b = b[n-len(a):]
			a = nil
		}
	}
	c.queue(a, b)
}

// SendSoon is Send at the end of the turn: what connections send one after the other costs less than what they send between other work, for neither
// the kernel's code nor ours leaves the cache. It is for heads and small bodies, which it copies; more than maxSoon goes at once.
func (c *Conn) SendSoon(p []byte) {
	if len(p) > maxSoon || c.fd < 0 || c.fl&(fFailed|fSendFailed|fClosed|fShut|fShutAfter|fConnecting|fShaking) != 0 || c.queued() || c.holds() {
		c.Send(p, nil)
		return
	}
	b := c.l.Stage(len(p) + maxOverhead)
	if c.fl&fTLS != 0 {
		b = c.x.sec.seal(b, p)
	} else {
		b = append(b, p...)
	}
	c.BytesOut += uint64(len(p))
	c.fl |= fSoon
	c.l.Staged(c, b)
}

// maxSoon bounds what SendSoon keeps until the end of the turn.
const maxSoon = 16 << 10

// Flush implements loop.Flusher: the turn ends.
func (c *Conn) Flush(p []byte) {
	c.fl &^= fSoon
	if c.fl&(fFailed|fSendFailed|fClosed) != 0 {
		return
	}
	n, e := 0, sys.Errno(0)
	if !c.queued() {
		n, e = c.sendTo(p, nil)
		for e == sys.EINTR {
			n, e = c.sendTo(p, nil)
		}
	}
	switch {
	case e != 0 && e != sys.EAGAIN:
		c.failSend(e)
	case n < len(p):
		c.queue(p[n:], nil)
		if c.fl&fTLS == 0 {
			c.f.Ahead += len(p) - n
		}
		if c.owner != nil {
			c.l.Ready(c.owner) // it took the output for gone, and has to reckon with a peer that does not read
		}
	}
}

// Settle sends at once what SendSoon has kept. An owner need not call it, but for those that write to FD themselves.
func (c *Conn) Settle() {
	if c.fl&fSoon != 0 {
		c.l.Hurry()
	}
}

func (c *Conn) sendNow(a, b []byte) (n int, e sys.Errno) {
	switch {
	case len(b) == 0:
		if len(a) == 0 {
			return 0, 0
		}
		n, e = c.sendTo(a, nil)
	case len(a) == 0:
		n, e = c.sendTo(b, nil)
	default:
		n, e = c.sendTo(a, b)
	}
	c.BytesOut += uint64(n)
	return n, e
}

func (c *Conn) queue(a, b []byte) {
	f := c.flight()
	if f.Out == nil {
		f.Out = c.l.Bufs.Get(len(a) + len(b))
	} else if len(f.Out)+len(a)+len(b) > cap(f.Out) && f.OutOff > 0 {
		f.Out = f.Out[:copy(f.Out, f.Out[f.OutOff:])]
		f.OutOff = 0
	}
	f.Out = c.l.Bufs.Grow(f.Out, len(a)+len(b))
	f.Out = append(append(f.Out, a...), b...)
}

// flush writes queued output; true means the owner should run: there is room again, or the connection failed.
func (c *Conn) flush() bool {
	f := c.f
	p := f.Out[f.OutOff:]
	n, e := c.sendTo(p, nil)
	for e == sys.EINTR {
		n, e = c.sendTo(p, nil)
	}
	if e == sys.EAGAIN {
		return false // an edge without room: the queue is as it was
	}
	if e != 0 {
		c.failSend(e)
		return true
	}
	f.OutOff += n
	if c.fl&fTLS != 0 {
		c.BytesOut += uint64(c.x.sec.sent(n, len(p)))
	} else {
		ahead := min(n, f.Ahead)
		f.Ahead -= ahead
		c.BytesOut += uint64(n - ahead)
	}
	if n < len(p) {
		return c.Queued() <= int(c.limit)/2
	}
	c.dropOut()
	c.land()
	if c.fl&fShaking != 0 {
		return false
	}
	if c.fl&fShutAfter != 0 {
		c.shut()
	}
	if c.fl&fCloseAfter != 0 {
		c.Close()
		return false
	}
	return true
}

// fail marks the connection broken. Unread input stays readable through In; unsent output is lost.
func (c *Conn) fail(e sys.Errno) {
	c.fl |= fFailed | fRDHup
	c.err = e
	c.dropOut()
	c.land()
	if c.fl&fCloseAfter != 0 {
		c.Close()
		return
	}
	if c.owner != nil {
		c.l.Ready(c.owner)
	}
}

// failSend ends sending only: a peer that answers and closes before it has read everything breaks our writes, but its answer is still there to read.
func (c *Conn) failSend(e sys.Errno) {
	c.fl |= fSendFailed | fReadable | fRDHup
	c.err = e
	c.dropOut()
	c.land()
	if c.fl&fCloseAfter != 0 {
		c.Close()
		return
	}
	if c.owner != nil {
		c.l.Ready(c.owner)
	}
}

// Queued is the number of output bytes that the kernel has refused so far; over TLS those of records.
func (c *Conn) Queued() int {
	n := 0
	if c.f != nil {
		n = len(c.f.Out) - c.f.OutOff
	}
	if c.fl&fShaking != 0 {
		n += len(c.x.sec.early)
	}
	return n
}

// Room is how many more output bytes should be queued: the buffer limit less what waits. At 0 or below the producer stops; the owner is woken when
// the queue has drained to half the limit.
func (c *Conn) Room() int { return int(c.limit) - c.Queued() }

// CloseWrite sends FIN, or over TLS close_notify and no FIN, as Envoy does, once the queue is out. Later Sends are dropped.
func (c *Conn) CloseWrite() {
	c.Settle()
	if c.fl&(fShut|fShutAfter|fFailed|fSendFailed|fClosed) != 0 {
		return
	}
	if c.fl&(fTLS|fShaking) == fTLS {
		c.closeNotify()
		if c.queued() {
			c.fl |= fShutAfter
			c.flush()
			return
		}
	}
	if c.queued() || c.fl&(fConnecting|fShaking) != 0 {
		c.fl |= fShutAfter
		return
	}
	c.shut()
}

func (c *Conn) shut() {
	c.fl = c.fl&^fShutAfter | fShut
	if c.fl&fTLS == 0 {
		c.shutWire()
	}
}

// WriteClosed tells whether CloseWrite was called.
func (c *Conn) WriteClosed() bool { return c.fl&(fShut|fShutAfter) != 0 }

// Close closes at once; queued output is lost. Over TLS the peer is told first, if no output is lost.
func (c *Conn) Close() { c.close(false) }

// Reset closes with RST.
func (c *Conn) Reset() { c.close(true) }

func (c *Conn) close(rst bool) {
	if c.fl&fClosed != 0 {
		return
	}
	c.owner = nil
	c.Settle()
	c.fl |= fClosed
	if c.fl&fTLS != 0 {
		if !rst {
			c.goodbye()
		}
		c.dropSecure()
	}
	c.closeWire(rst)
	c.dropIn()
	c.dropOut()
	c.land()
}

// CloseAfterFlush closes once the queue is out, or at a deadline of 30 s. The owner hears nothing more and must forget the connection.
func (c *Conn) CloseAfterFlush() {
	c.owner = nil
	c.Settle()
	if c.Queued() == 0 || c.fl&fFailed != 0 {
		c.Close()
		return
	}
	c.dropIn() // nobody will read it, and a peer that does not read either may leave up to 256 KiB here until the deadline
	if c.fl&(fTLS|fShaking) == fTLS {
		c.closeNotify()
	}
	c.fl |= fCloseAfter
	o := &orphan{c: c}
	o.task.Init(o)
	o.timer.Init(&o.task)
	c.l.Arm(&o.timer, c.l.Now()+lingerDeadline)
}

// orphan bounds the life of a connection that only has to flush. It is allocated: this is the rare path of a peer that does not read.
type orphan struct {
	task  loop.Task
	timer loop.Timer
	c     *Conn
}

// Advance closes the connection at the deadline.
func (o *orphan) Advance(sys.Nanos) loop.Step {
	o.c.Close() // does nothing when the queue went out in time
	return loop.Done
}

// Release takes the socket of a plain connection out of the worker without closing it and returns the descriptor; unread input and queued output
// must be empty.
func (c *Conn) Release() sys.FD {
	c.Settle()
	c.fl |= fClosed
	c.l.Detach(c.fd)
	c.l.Free(c.slot)
	c.dropIn()
	c.dropOut()
	c.land()
	c.owner = nil
	return c.fd
}

// Err is the errno of a broken connection.
func (c *Conn) Err() sys.Errno { return c.err }

// EOF tells whether the peer's FIN was read and no byte is left.
func (c *Conn) EOF() bool { return c.fl&fEOF != 0 && len(c.In()) == 0 }

// PeerClosed tells whether epoll reported that the peer finished or broke the connection; bytes may still be unread.
func (c *Conn) PeerClosed() bool { return c.fl&(fRDHup|fFailed) != 0 }

// HungUp tells whether both directions are over (EPOLLHUP or EPOLLERR).
func (c *Conn) HungUp() bool { return c.fl&(fHup|fFailed) != 0 }

// Broken tells whether a read or a send failed.
func (c *Conn) Broken() bool { return c.fl&(fFailed|fSendFailed) != 0 }

// Closed tells whether Close was called.
func (c *Conn) Closed() bool { return c.fl&fClosed != 0 }

// Remote is the peer's address: as dialled, or what the kernel says (a system call) of an accepted connection.
func (c *Conn) Remote() sys.Addr {
	if c.x != nil && !c.x.remote.IsZero() {
		return c.x.remote
	}
	a, _ := c.l.K.PeerAddr(c.fd)
	return a
}

// Local asks the kernel for the local address.
func (c *Conn) Local() sys.Addr {
	if c.fd < 0 {
		return c.x.pipe.local
	}
	a, _ := c.l.K.LocalAddr(c.fd)
	return a
}

// FD is the descriptor, for splice and socket options; -1 of an internal connection.
func (c *Conn) FD() sys.FD { return c.fd }

// SetLimit changes the output limit.
func (c *Conn) SetLimit(n int) { c.limit = bounded(n) }

// bounded makes a limit of per_connection_buffer_limit_bytes: 0 is no limit, and not every uint32 fits.
func bounded(n int) int32 {
	if n <= 0 || n > math.MaxInt32 {
		return math.MaxInt32
	}
	return int32(n)
}

// SetReadable marks that the socket may have input: after splice stopped before the kernel said EAGAIN.
func (c *Conn) SetReadable(v bool) {
	if c.fl&fShaking != 0 {
		return // its own edges wake the handshake
	}
	if v {
		c.fl |= fReadable
	} else {
		c.fl &^= fReadable
	}
}

// WantRoom wakes the owner on the next writable edge, for owners that write to FD themselves and heard EAGAIN.
func (c *Conn) WantRoom() { c.fl |= fWantRoom }

// SetEOF marks the end of input as seen by other means than Fill (splice returned 0).
func (c *Conn) SetEOF() { c.fl |= fEOF | fRDHup }

// Fail marks the connection as broken, for owners that do I/O of their own on FD.
func (c *Conn) Fail(e sys.Errno) { c.fail(e) }
