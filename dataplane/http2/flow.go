// SPDX-License-Identifier: Apache-2.0

package http2

// Credit is how much content can be sent on s now: its window, the connection's, and what the output takes. A stream without credit is returned by
// NextWritable when it has some.
func (c *Conn) Credit(s *Stream) int {
	n := min(int(s.sendWin), c.connCredit())
	if n <= 0 {
		c.wait(s)
		return 0
	}
	return n
}

func (c *Conn) connCredit() int { return min(int(c.sendWin), c.room()) }

// wait remembers that s wants credit.
func (c *Conn) wait(s *Stream) {
	if s.fl&(sReset|sLocalEnd) == 0 {
		s.fl |= sWants
		c.want(s)
	}
}

// want lists s for NextWritable if it wants credit and its own window is open: then only the connection can be in its way.
func (c *Conn) want(s *Stream) {
	if s.fl&(sWants|sListed) != sWants || s.sendWin <= 0 {
		return
	}
	s.fl |= sListed
	s.prevWants, s.nextWants = c.wantsTail, nil
	if c.wantsTail != nil {
		c.wantsTail.nextWants = s
	} else {
		c.wantsHead = s
	}
	c.wantsTail = s
}

// forget takes s off the list.
func (c *Conn) forget(s *Stream) {
	if s.fl&sListed == 0 {
		return
	}
	s.fl &^= sListed
	if s.prevWants != nil {
		s.prevWants.nextWants = s.nextWants
	} else {
		c.wantsHead = s.nextWants
	}
	if s.nextWants != nil {
		s.nextWants.prevWants = s.prevWants
	} else {
		c.wantsTail = s.prevWants
	}
	s.prevWants, s.nextWants = nil, nil
}

// Writable tells whether NextWritable would look at a stream.
func (c *Conn) Writable() bool { return c.wantsHead != nil && c.connCredit() > 0 }

// NextWritable returns a stream that was refused credit and has some now, in the order of refusal, each once; nil when there is none.
func (c *Conn) NextWritable() *Stream {
	for c.wantsHead != nil && c.connCredit() > 0 {
		s := c.wantsHead
		c.forget(s)
		if s.fl&(sReset|sLocalEnd) != 0 {
			s.fl &^= sWants
			continue
		}
		if s.sendWin > 0 {
			s.fl &^= sWants
			return s
		}
	}
	return nil
}

// Consumed returns the window of n bytes of content that have left for the other side. Window updates are sent for half a window at a time.
func (c *Conn) Consumed(s *Stream, n int) { c.consume(s, int32(n)) }

func (c *Conn) consume(s *Stream, n int32) {
	n = min(n, s.held)
	s.held -= n
	c.give(n)
	if s.fl&(sReset|sRemoteEnd) != 0 {
		return
	}
	if s.unreturned += n; s.unreturned >= half(s.recvSize) {
		n, s.unreturned = s.unreturned, 0
		s.recvWin += n
		s.meter.WireOut += frameHeader + 4
		c.windowUpdate(s.id, n)
		c.measure()
	}
}

// give returns n bytes to the connection's window.
func (c *Conn) give(n int32) {
	c.growth.bytes += int64(n)
	if c.unreturned += n; c.unreturned >= half(c.recvSize) {
		n, c.unreturned = c.unreturned, 0
		c.recvWin += n
		c.windowUpdate(0, n)
		c.measure()
	}
}

func (c *Conn) windowUpdate(id uint32, n int32) {
	if c.fl&cFailed != 0 {
		return
	}
	c.grow(frameHeader + 4)
	c.out = appendHeader(c.out, 4, ftWindowUpdate, 0, id)
	c.append32(uint32(n))
	c.sent(ftWindowUpdate)
}

// half is half a window, at least 1; a window may have 2^31-1 bytes, to which nothing can be added.
func half(n int32) int32 { return n - n/2 }
