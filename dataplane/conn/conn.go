// SPDX-License-Identifier: Apache-2.0

// Package conn is one byte connection of a worker: socket, unread input, unsent output. It reports readiness and never decides policy: what to do
// with bytes belongs to its owner task. A connection that is idle holds no buffer at all.
package conn

import (
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
	fShutAfter                    // send FIN when the queue is out
	fShut                         // FIN was sent
	fCloseAfter                   // close when the queue is out
	fClosed
)

// Conn is one connection. Worker-owned; made by Dial or Adopt. After Close it must not be touched.
type Conn struct {
	// Immutable until Close
	l      *loop.Loop
	token  uint64
	fd     sys.FD
	limit  int32 // output bytes to queue before Room is used up
	remote sys.Addr

	// Worker
	fl     flags
	err    sys.Errno
	outOff uint32
	owner  *loop.Task
	in     []byte // unread input: a window into the loop's scratch, or into inBuf
	inBuf  []byte // own buffer behind in, from the pool; nil while in is empty or in the scratch
	out    []byte // unsent output, from the pool; nil while nothing is queued

	// BytesIn and BytesOut count wire bytes.
	BytesIn, BytesOut uint64
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
	c := &Conn{l: l, fd: fd, limit: int32(limit), remote: a, owner: owner, fl: fConnecting}
	if c.token, e = l.Register(fd, c, interest); e != 0 {
		l.K.Close(fd)
		return nil, e
	}
	return c, 0
}

// Adopt takes an accepted, non-blocking socket.
func Adopt(l *loop.Loop, fd sys.FD, remote sys.Addr, limit int, owner *loop.Task) (*Conn, sys.Errno) {
	c := &Conn{l: l, fd: fd, limit: int32(limit), remote: remote, owner: owner}
	var e sys.Errno
	if c.token, e = l.Register(fd, c, interest); e != 0 {
		l.K.Close(fd)
		return nil, e
	}
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
	if c.fl&fClosed != 0 {
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
		// Any event decides a connect: EPOLLOUT for success, EPOLLERR|EPOLLHUP for failure. EPOLLHUP alone is a socket that has not started.
		if ev&(sys.EventOut|sys.EventErr) != 0 {
			wake = true
		}
	} else if ev&sys.EventOut != 0 && c.out != nil {
		wake = c.flush() || wake
	}
	if wake && c.owner != nil {
		c.l.Ready(c.owner)
	}
}

// Connected reports the outcome of a non-blocking connect: not done, or done with an errno (0 = connected).
func (c *Conn) Connected() (done bool, e sys.Errno) {
	if c.fl&fConnecting == 0 {
		return true, c.err
	}
	if e = c.l.K.ConnectResult(c.fd); e != 0 {
		c.fl = c.fl&^fConnecting | fFailed
		c.err = e
		return true, e
	}
	if !c.established() {
		return false, 0
	}
	c.fl &^= fConnecting
	if c.out != nil {
		c.flush()
	}
	return true, 0
}

// established tells a finished connect from a pending one: SO_ERROR is 0 in both cases, the peer address exists only in the first.
func (c *Conn) established() bool {
	_, e := c.l.K.PeerAddr(c.fd)
	return e == 0
}

// In is the unread input: a view that is valid until the next Fill of any connection of this worker or the end of the running Advance.
func (c *Conn) In() []byte { return c.in }

// Fill reads once if there may be something to read. Not calling it is back-pressure: the readable bit stays.
func (c *Conn) Fill() Status {
	switch {
	case c.fl&fFailed != 0:
		return Failed
	case c.fl&fEOF != 0:
		return EOF
	case c.fl&fReadable == 0:
		return Blocked
	}
	var b []byte
	if len(c.in) == 0 {
		c.dropIn()
		b = c.l.Scratch(c)
	} else {
		if len(c.in) >= maxInput {
			return Blocked
		}
		c.Spill()
		c.inBuf = c.l.Bufs.Grow(c.compact(), min(max(len(c.in), 4<<10), 64<<10))
		c.in = c.inBuf
		b = c.inBuf[len(c.inBuf):cap(c.inBuf)]
	}
	n, e := c.l.K.Recv(c.fd, b)
	if e != 0 {
		if e == sys.EAGAIN {
			c.fl &^= fReadable
			return Blocked
		}
		if e == sys.EINTR {
			return Blocked
		}
		c.fail(e)
		return Failed
	}
	if n == 0 {
		c.fl |= fEOF | fRDHup
		return EOF
	}
	c.BytesIn += uint64(n)
	if n < len(b) && c.fl&fRDHup == 0 {
		c.fl &^= fReadable // a short read means drained; RDHUP is in the mask, so a FIN brings another edge
	}
	if c.inBuf == nil {
		c.in = b[:n]
	} else {
		c.inBuf = c.inBuf[:len(c.inBuf)+n]
		c.in = c.inBuf
	}
	return More
}

// compact moves the unread input to the start of the own buffer.
func (c *Conn) compact() []byte {
	if c.inBuf == nil {
		return nil
	}
	if len(c.in) != len(c.inBuf) {
		n := copy(c.inBuf, c.in)
		c.inBuf = c.inBuf[:n]
		c.in = c.inBuf
	}
	return c.inBuf
}

// Spill copies unread input out of the shared scratch; the loop calls it when another connection needs the scratch.
func (c *Conn) Spill() {
	if len(c.in) == 0 || c.inBuf != nil {
		return
	}
	b := c.l.Bufs.Get(len(c.in))
	c.inBuf = append(b, c.in...)
	c.in = c.inBuf
	c.l.DropScratch(c)
}

// Discard consumes n bytes of In.
func (c *Conn) Discard(n int) {
	c.in = c.in[n:]
	if len(c.in) == 0 {
		c.dropIn()
	}
}

func (c *Conn) dropIn() {
	c.in = nil
	if c.inBuf != nil {
		c.l.Bufs.Put(c.inBuf)
		c.inBuf = nil
		return
	}
	c.l.DropScratch(c)
}

// Unread puts bytes in front of the input, for protocols that hand a connection over after sniffing.
func (c *Conn) Unread(p []byte) {
	if len(p) == 0 {
		return
	}
	b := c.l.Bufs.Get(len(p) + len(c.in))
	b = append(append(b, p...), c.in...)
	c.dropIn()
	c.inBuf, c.in = b, b
}

// Readable tells whether an Advance would find unread bytes, an end of stream or an edge that was not read yet.
func (c *Conn) Readable() bool { return len(c.in) > 0 || c.fl&(fReadable|fFailed) != 0 }

// MayRead tells whether Fill could bring something: it ignores bytes that are already in In.
func (c *Conn) MayRead() bool { return c.fl&(fReadable|fFailed|fEOF) != 0 }

// Send sends a, then b, in one system call, behind whatever is queued. What the socket does not take is copied and goes out on the writable edge.
// Errors show in Err and wake the owner.
func (c *Conn) Send(a, b []byte) {
	if c.fl&(fFailed|fClosed|fShut|fShutAfter) != 0 {
		return
	}
	if c.out == nil && c.fl&fConnecting == 0 {
		n, e := c.sendNow(a, b)
		if e != 0 && e != sys.EAGAIN && e != sys.EINTR {
			c.fail(e)
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

func (c *Conn) sendNow(a, b []byte) (n int, e sys.Errno) {
	switch {
	case len(b) == 0:
		if len(a) == 0 {
			return 0, 0
		}
		n, e = c.l.K.Send(c.fd, a)
	case len(a) == 0:
		n, e = c.l.K.Send(c.fd, b)
	default:
		n, e = c.l.K.Send2(c.fd, a, b)
	}
	c.BytesOut += uint64(n)
	return n, e
}

func (c *Conn) queue(a, b []byte) {
	if c.out == nil {
		c.out = c.l.Bufs.Get(len(a) + len(b))
		c.outOff = 0
	} else if len(c.out)+len(a)+len(b) > cap(c.out) && c.outOff > 0 {
		n := copy(c.out, c.out[c.outOff:])
		c.out = c.out[:n]
		c.outOff = 0
	}
	c.out = c.l.Bufs.Grow(c.out, len(a)+len(b))
	c.out = append(append(c.out, a...), b...)
}

// flush writes queued output; true means the owner should run: there is room again, or the connection failed.
func (c *Conn) flush() bool {
	for c.out != nil {
		p := c.out[c.outOff:]
		n, e := c.l.K.Send(c.fd, p)
		c.BytesOut += uint64(n)
		if e != 0 {
			if e == sys.EAGAIN || e == sys.EINTR {
				break
			}
			c.fail(e)
			return true
		}
		c.outOff += uint32(n)
		if n < len(p) {
			break
		}
		c.l.Bufs.Put(c.out)
		c.out, c.outOff = nil, 0
	}
	if c.out == nil {
		if c.fl&fShutAfter != 0 {
			c.shut()
		}
		if c.fl&fCloseAfter != 0 {
			c.Close()
			return false
		}
		return true
	}
	return c.Queued() <= int(c.limit)/2
}

func (c *Conn) fail(e sys.Errno) {
	c.fl |= fFailed | fRDHup
	c.err = e
	if c.out != nil {
		c.l.Bufs.Put(c.out)
		c.out, c.outOff = nil, 0
	}
	if c.fl&fCloseAfter != 0 {
		c.Close()
		return
	}
	if c.owner != nil {
		c.l.Ready(c.owner)
	}
}

// Queued is the number of output bytes that the kernel has not taken.
func (c *Conn) Queued() int { return len(c.out) - int(c.outOff) }

// Room is how many more output bytes should be queued: the buffer limit less what waits. At 0 or below the producer stops; the owner is woken when
// the queue has drained to half the limit.
func (c *Conn) Room() int { return int(c.limit) - c.Queued() }

// CloseWrite sends FIN once the queue is out. Later Sends are dropped.
func (c *Conn) CloseWrite() {
	if c.fl&(fShut|fShutAfter|fFailed|fClosed) != 0 {
		return
	}
	if c.out != nil || c.fl&fConnecting != 0 {
		c.fl |= fShutAfter
		return
	}
	c.shut()
}

func (c *Conn) shut() {
	c.fl = c.fl&^fShutAfter | fShut
	c.l.K.Shutdown(c.fd, true)
}

// WriteClosed tells whether CloseWrite was called.
func (c *Conn) WriteClosed() bool { return c.fl&(fShut|fShutAfter) != 0 }

// Close closes at once; queued output is lost.
func (c *Conn) Close() { c.close(false) }

// Reset closes with RST.
func (c *Conn) Reset() { c.close(true) }

func (c *Conn) close(rst bool) {
	if c.fl&fClosed != 0 {
		return
	}
	c.fl |= fClosed
	c.l.Unregister(c.token)
	if rst {
		c.l.K.Reset(c.fd)
	} else {
		c.l.K.Close(c.fd)
	}
	c.dropIn()
	if c.out != nil {
		c.l.Bufs.Put(c.out)
		c.out, c.outOff = nil, 0
	}
	c.owner = nil
}

// CloseAfterFlush closes once the queue is out, or at a deadline of 30 s. The owner hears nothing more and must forget the connection.
func (c *Conn) CloseAfterFlush() {
	c.owner = nil
	if c.out == nil || c.fl&fFailed != 0 {
		c.Close()
		return
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
	o.c.Close()
	return loop.Done
}

// Release takes the socket out of the worker without closing it and returns the descriptor; unread input and queued output must be empty.
func (c *Conn) Release() sys.FD {
	c.fl |= fClosed
	c.l.Detach(c.fd)
	c.l.Unregister(c.token)
	c.dropIn()
	c.owner = nil
	return c.fd
}

// Err is the errno of a broken connection.
func (c *Conn) Err() sys.Errno { return c.err }

// EOF tells whether the peer's FIN was read and no byte is left.
func (c *Conn) EOF() bool { return c.fl&fEOF != 0 && len(c.in) == 0 }

// PeerClosed tells whether epoll reported that the peer finished or broke the connection; bytes may still be unread.
func (c *Conn) PeerClosed() bool { return c.fl&(fRDHup|fFailed) != 0 }

// HungUp tells whether both directions are over (EPOLLHUP or EPOLLERR).
func (c *Conn) HungUp() bool { return c.fl&(fHup|fFailed) != 0 }

// Broken tells whether a read or a send failed.
func (c *Conn) Broken() bool { return c.fl&fFailed != 0 }

// Closed tells whether Close was called.
func (c *Conn) Closed() bool { return c.fl&fClosed != 0 }

// Remote is the peer's address as accepted or dialled.
func (c *Conn) Remote() sys.Addr { return c.remote }

// Local asks the kernel for the local address.
func (c *Conn) Local() sys.Addr {
	a, _ := c.l.K.LocalAddr(c.fd)
	return a
}

// FD is the descriptor, for splice and socket options.
func (c *Conn) FD() sys.FD { return c.fd }

// SetLimit changes the output limit.
func (c *Conn) SetLimit(n int) { c.limit = int32(n) }

// SetReadable marks that the socket may have input: after splice stopped before the kernel said EAGAIN.
func (c *Conn) SetReadable(v bool) {
	if v {
		c.fl |= fReadable
	} else {
		c.fl &^= fReadable
	}
}

// SetEOF marks the end of input as seen by other means than Fill (splice returned 0).
func (c *Conn) SetEOF() { c.fl |= fEOF | fRDHup }

// Fail marks the connection as broken, for owners that do I/O of their own on FD.
func (c *Conn) Fail(e sys.Errno) { c.fail(e) }
