// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"sidecar/dataplane/identity"
	"sidecar/dataplane/sys"
	"sidecar/dataplane/transport/tls"
	"sidecar/internal/telemetry/stats"
)

// secure is the TLS side of a connection: its owner sees plaintext in In, Send and all the rest. Ciphertext in the worker's scratch is opened in place, so
// an idle connection holds no buffer beyond what crypto/tls keeps.
type secure struct {
	// Immutable
	w *TLS
	s *tls.Session

	// Worker
	ssl   *stats.Block // stats.SSLDef; may be nil
	sh    *shake       // the handshake; nil when it is over
	raw   []byte       // ciphertext that was read but not opened, from the pool; nil when there is none
	early []byte       // plaintext sent before the handshake was done, from the pool
	held  int          // bytes of the session's output that wait for the first that the owner sends; nothing is queued then
	plain int          // plaintext bytes in the queued output, for the counter
	why   error        // why the transport failed
	up    sys.Nanos    // when the socket was connected; 0 for an accepted one
	done  sys.Nanos    // when the handshake was done
	fresh bool         // raw may hold whole records: the handshake left them
	bad   bool         // a record was bad; Fill tells when what came before is read
}

const (
	// recordSpace is the largest record.
	recordSpace = 5 + 16384 + 2048
	// maxPlain is the plaintext of a full record; maxOverhead is what a record adds at most.
	maxPlain    = 16384
	maxOverhead = 5 + 256
	// shakeRead is how much is read at once during a handshake.
	shakeRead = 32 << 10
)

// StartTLS puts s between the connection and its owner. What is unread so far is taken for ciphertext. Until the handshake is done, Connected says
// so, Fill is Blocked and Send queues. An accepted connection begins at once, a dialled one when it is connected. timeout bounds the handshake, 0 does
// not; when it strikes, or when the handshake fails, the connection is broken and TransportFailure tells why.
func (c *Conn) StartTLS(w *TLS, s *tls.Session, timeout sys.Nanos) {
	x := &secure{w: w, s: s}
	if in := c.In(); len(in) > 0 {
		x.raw = append(c.l.Bufs.Get(len(in)), in...)
		c.BytesIn -= uint64(len(in))
		c.dropIn()
		c.land()
	}
	if c.x == nil {
		c.x = &extra{}
	}
	c.x.sec = x
	x.sh = w.shake(c, timeout)
	x.sh.readable = c.fl&fReadable != 0
	c.fl = c.fl&^fReadable | fTLS | fShaking
	if c.fl&fConnecting == 0 {
		w.push(x.sh)
	}
}

// Session is what the TLS handshake agreed on; nil on a plain connection and before the handshake is done.
func (c *Conn) Session() *identity.Session {
	if c.fl&fTLS == 0 {
		return nil
	}
	return c.x.sec.s.Info()
}

// Secure tells whether the connection speaks TLS: its descriptor must not be read or written by others.
func (c *Conn) Secure() bool { return c.fl&fTLS != 0 }

// HandshakeTimes are when the socket of a dialled connection was up, and when the TLS handshake behind it was done; 0 on a plain connection and before.
func (c *Conn) HandshakeTimes() (up, done sys.Nanos) {
	if c.fl&fTLS == 0 {
		return 0, 0
	}
	return c.x.sec.up, c.x.sec.done
}

// Shaking tells whether a TLS handshake is still to be done.
func (c *Conn) Shaking() bool { return c.fl&fShaking != 0 }

// TransportFailure is why TLS failed; nil if it did not.
func (c *Conn) TransportFailure() error {
	if c.fl&fTLS == 0 {
		return nil
	}
	return c.x.sec.why
}

// FailureText is TransportFailure as Envoy's operators print it; "" when the bytes of TLS were not at fault, as with a timeout or a peer that closed.
func (c *Conn) FailureText() string {
	switch {
	case c.fd < 0 && c.err == sys.EINVAL:
		return "immediate_connect_error:_Invalid_argument|remote_address:" + c.x.remote.String()
	case c.err != sys.EPROTO:
		return ""
	}
	return tls.FailureText(c.TransportFailure())
}

// Truncated tells whether the peer ended the stream without close_notify: an attacker could have done that (RFC 8446 section 6.1). Envoy takes such an
// end for a good one, and so does Fill.
func (c *Conn) Truncated() bool { return c.fl&(fTLS|fEOF) == fTLS|fEOF && !c.x.sec.s.PeerClosed() }

// fillSecure is FillUpTo over TLS.
func (c *Conn) fillSecure(limit int) Status {
	switch n := len(c.In()); {
	case c.x.sec.bad:
		c.fail(sys.EPROTO)
		return Failed
	case n >= maxInput:
		return Blocked
	case n > 0:
		c.Spill()
	}
	for {
		st, again := c.readRecords(limit)
		if !again {
			return st
		}
	}
}

// readRecords reads once and opens what is whole; again means that nothing came of it although more may be in the socket.
func (c *Conn) readRecords(limit int) (st Status, again bool) {
	x := c.x.sec
	b, n := c.l.Scratch(c), 0
	if x.raw != nil {
		n = copy(b, x.raw)
		x.dropRaw(c)
	}
	if !x.fresh {
		k, st := c.recv(b[n:], max(limit, recordSpace-n))
		if st != More {
			x.keep(c, b[:n])
			c.l.DropScratch(c)
			c.land()
			return st, false
		}
		n += k
	}
	x.fresh = false
	plain, rest, res := x.s.Unseal(b[:n], 0)
	if res == tls.More {
		x.keep(c, b[rest:n])
	}
	c.take(b[:plain])
	if len(x.s.Out) != x.held {
		c.pass(0) // answers of the session: an alert, a key update
	}
	switch {
	case res == tls.Closed:
		c.fl |= fEOF | fRDHup | fReadable
		if plain == 0 {
			c.land()
			return EOF, false
		}
	case res == tls.Bad:
		x.bad, x.why = true, x.s.Err()
		x.countFailed(x.why)
		c.fl |= fReadable
		if plain == 0 {
			c.fail(sys.EPROTO)
			return Failed, false
		}
	case plain == 0:
		c.land()
		return Blocked, c.fl&fReadable != 0
	}
	return More, false
}

// recv reads at most limit bytes into b and keeps account of the edge.
func (c *Conn) recv(b []byte, limit int) (int, Status) {
	if c.fl&fReadable == 0 {
		return 0, Blocked
	}
	b = b[:min(len(b), limit)]
	n, e := c.recvFrom(b)
	for e == sys.EINTR {
		n, e = c.recvFrom(b)
	}
	switch {
	case e == sys.EAGAIN:
		c.fl &^= fReadable
		return 0, Blocked
	case e != 0:
		c.fail(e)
		return 0, Failed
	case n == 0:
		c.fl |= fEOF | fRDHup
		return 0, EOF
	}
	if n < len(b) && c.fl&fRDHup == 0 {
		c.fl &^= fReadable
	}
	return n, More
}

// take makes p, which lies at the front of the scratch, unread input.
func (c *Conn) take(p []byte) {
	if len(p) == 0 {
		c.l.DropScratch(c)
		return
	}
	c.BytesIn += uint64(len(p))
	f := c.flight()
	if len(f.In) == 0 {
		f.In = p
		return
	}
	if len(f.In) != len(f.InBuf) { // the consumed part is at the front
		f.InBuf = f.InBuf[:copy(f.InBuf, f.In)]
	}
	f.InBuf = append(c.l.Bufs.Grow(f.InBuf, len(p)), p...)
	f.In = f.InBuf
	c.l.DropScratch(c)
}

// keep puts ciphertext aside until the next read.
func (x *secure) keep(c *Conn, p []byte) {
	if len(p) > 0 {
		x.raw = append(c.l.Bufs.Get(len(p)), p...)
	}
}

func (x *secure) dropRaw(c *Conn) {
	c.l.Bufs.Put(x.raw)
	x.raw = nil
}

// sendSecure is Send over TLS: one record and one system call if it fits.
func (c *Conn) sendSecure(a, b []byte) {
	x := c.x.sec
	n := len(a) + len(b)
	if n == 0 {
		return
	}
	if c.fl&(fShaking|fConnecting) != 0 {
		x.early = append(append(c.l.Bufs.Grow(x.early, n), a...), b...)
		return
	}
	idle := !c.queued()
	f := c.flight()
	if x.held > 0 {
		f.Out, x.s.Out, x.held = x.s.Out, nil, 0
	}
	f.Out = c.l.Bufs.Grow(f.Out, n+(n/maxPlain+2)*maxOverhead)
	x.s.Out = f.Out
	if len(a) > 0 && len(b) > 0 && n <= maxPlain {
		both := append(append(c.l.Bufs.Get(n), a...), b...)
		x.s.Seal(both)
		c.l.Bufs.Put(both)
	} else {
		x.s.Seal(a)
		x.s.Seal(b)
	}
	f.Out, x.s.Out = x.s.Out, nil
	x.plain += n
	c.squeeze()
	if idle {
		c.flushSecure()
	}
}

// seal appends the records of p to b.
func (x *secure) seal(b, p []byte) []byte {
	x.s.Out = b
	x.s.Seal(p)
	b, x.s.Out = x.s.Out, nil
	return b
}

// holds tells whether the session's own output waits for the owner's next.
func (c *Conn) holds() bool { return c.fl&fTLS != 0 && c.x.sec.held > 0 }

// pass queues what the session has to say by itself, which stands for plain bytes of the owner's, and sends it if nothing is before it.
func (c *Conn) pass(plain int) {
	x := c.x.sec
	if len(x.s.Out) == x.held {
		return
	}
	x.held = 0
	c.Settle()
	if c.fl&(fFailed|fSendFailed|fClosed|fShut) != 0 {
		c.l.Bufs.Put(x.s.Out)
		x.s.Out = nil
		return
	}
	x.plain += plain
	f := c.flight()
	if f.Out == nil {
		f.Out = x.s.Out
	} else {
		f.Out = append(c.l.Bufs.Grow(f.Out, len(x.s.Out)), x.s.Out...)
		c.l.Bufs.Put(x.s.Out)
		c.squeeze()
		x.s.Out = nil
		return
	}
	x.s.Out = nil
	c.flushSecure()
}

// squeeze moves unsent output to the front of its buffer when that pays.
func (c *Conn) squeeze() {
	if f := c.f; f.OutOff > cap(f.Out)/2 {
		f.Out = f.Out[:copy(f.Out, f.Out[f.OutOff:])]
		f.OutOff = 0
	}
}

// flushSecure sends what is queued; whether the owner has to run was for it to see before.
func (c *Conn) flushSecure() {
	if c.queued() {
		c.flush()
	}
}

// sent is how many plaintext bytes the n of left queued ciphertext bytes stand for that the kernel has taken: the counters count what the owner sent,
// and see progress within a record.
func (x *secure) sent(n, left int) int {
	if n >= left {
		n, x.plain = x.plain, 0
		return n
	}
	n = int(int64(x.plain) * int64(n) / int64(left))
	x.plain -= n
	return n
}

// closeNotify queues close_notify behind what is queued.
func (c *Conn) closeNotify() {
	x := c.x.sec
	if c.fl&(fShaking|fConnecting|fFailed|fSendFailed|fShut) != 0 {
		return
	}
	x.held = 0
	f := c.f
	if f == nil || f.Out == nil {
		x.s.CloseNotify()
		if len(x.s.Out) > 0 {
			c.flight().Out = x.s.Out
		}
	} else {
		x.s.Out = f.Out
		x.s.CloseNotify()
		f.Out = x.s.Out
	}
	x.s.Out = nil
}

// goodbye tries to tell the peer that the stream ends here, unless output is lost anyway: then it must look truncated.
func (c *Conn) goodbye() {
	if c.fl&(fTLS|fShaking|fConnecting|fFailed|fSendFailed|fShut|fShutAfter) != fTLS || c.queued() || c.x.sec.bad {
		return
	}
	c.closeNotify()
	if c.queued() {
		_, _ = c.sendTo(c.f.Out, nil)
	}
}

// dropSecure frees what TLS holds; the connection is closed.
func (c *Conn) dropSecure() {
	x := c.x.sec
	if x.sh != nil {
		x.w.drop(x.sh)
		x.sh = nil
	}
	x.s.Abort()
	c.l.Bufs.Put(x.s.Out)
	x.s.Out = nil
	x.dropRaw(c)
	c.l.Bufs.Put(x.early)
	x.early = nil
}
