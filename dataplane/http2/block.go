// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2/hpack"
	"sidecar/dataplane/httpmsg"
)

// beginHeaders: RFC 9113 section 6.2.
func (c *Conn) beginHeaders(ev *Event) bool {
	h := &c.h
	if h.id == 0 {
		return c.protocolError()
	}
	c.fl &^= cSelfDep | cBlockEnd
	if h.flags&flagEndStream != 0 {
		c.fl |= cBlockEnd
	}
	c.conts, c.blockIn = 0, h.length
	c.need = 0
	if h.flags&flagPadded != 0 {
		c.need = 1
	}
	if h.flags&flagPriority != 0 {
		c.need += 5
	}
	if h.length < uint32(c.need) {
		c.fail(CodeFrameSize, fault.H2Protocol, CountProtocolError)
		return false
	}
	if c.need > 0 {
		c.phase = phFixed
		return false
	}
	return c.beginFragment(ev)
}

// headersPrefix takes padding length and priority.
func (c *Conn) headersPrefix(ev *Event) bool {
	p := c.part[:]
	if c.h.flags&flagPadded != 0 {
		if c.pad = uint32(p[0]); c.pad > c.left {
			return c.protocolError()
		}
		p = p[1:]
	}
	if c.h.flags&flagPriority != 0 && binary.BigEndian.Uint32(p)&maxStreamID == c.h.id {
		c.fl |= cSelfDep
	}
	return c.beginFragment(ev)
}

// beginContinuation: RFC 9113 section 6.10. The number and the octets of what one block may have are limited (CVE-2024-27919, CVE-2024-30255).
func (c *Conn) beginContinuation(ev *Event) bool {
	if c.fl&cInBlock == 0 || c.h.id != c.blockID {
		return c.protocolError()
	}
	if c.conts++; c.conts > c.o.maxContinuations() || len(c.block)+int(c.left) > c.o.maxBlock() {
		c.fail(CodeEnhanceYourCalm, fault.H2Flood, CountContinuationFlood)
		return false
	}
	c.blockIn += c.h.length
	return c.beginFragment(ev)
}

// beginFragment starts on the fragment of a HEADERS or CONTINUATION frame.
func (c *Conn) beginFragment(ev *Event) bool {
	c.blockID = c.h.id
	if c.role == Server && c.h.typ == ftHeaders && c.h.id&1 == 1 && c.h.id > c.highest && uint32(c.streams.count) < c.o.MaxConcurrentStreams {
		c.opening = c.h.id
	}
	n := c.left - c.pad
	if c.emptyFrame(n == 0 && !(c.h.typ == ftHeaders && c.fl&cBlockEnd != 0)); c.fl&cFailed != 0 {
		return false
	}
	c.phase = phFragment
	if n > 0 {
		return false
	}
	return c.endFragment(nil, ev)
}

// fragment takes a piece of a fragment. One that is a whole block is decoded where it is.
func (c *Conn) fragment(in []byte, ev *Event) (n int, got bool) {
	n = int(min(uint32(len(in)), c.left-c.pad))
	c.left -= uint32(n)
	if c.left > c.pad {
		c.keep(in[:n])
		return n, false
	}
	return n, c.endFragment(in[:n], ev)
}

// keep appends to the block.
func (c *Conn) keep(p []byte) {
	if c.block == nil {
		c.block = c.sh.Bufs.Get(int(c.h.length))
	}
	c.block = append(c.sh.Bufs.Grow(c.block, len(p)), p...)
}

func (c *Conn) endFragment(p []byte, ev *Event) (got bool) {
	if c.skip(); c.h.flags&flagEndHeaders == 0 {
		c.fl |= cInBlock
		c.keep(p)
		return false
	}
	c.fl &^= cInBlock
	if c.block == nil {
		return c.endBlock(p, ev)
	}
	c.keep(p)
	got = c.endBlock(c.block, ev)
	c.sh.Bufs.Put(c.block)
	c.block = nil
	return got
}

// endBlock finds out what a complete header block is. Every block is decoded, whatever becomes of it, as it changes the table.
func (c *Conn) endBlock(block []byte, ev *Event) bool {
	s := c.streams.find(c.blockID)
	switch {
	case s == nil && c.role == Server:
		return c.request(block, ev)
	case s == nil:
		return c.stray(block, c.idle(c.blockID))
	case s.fl&sReset != 0:
		c.decode(block, &message{})
		return false
	case s.fl&sRemoteEnd != 0:
		c.decode(block, &message{})
		return c.streamError(s, CodeStreamClosed, fault.H2Protocol, ev)
	case c.fl&cSelfDep != 0:
		c.decode(block, &message{})
		return c.streamError(s, CodeProtocol, fault.H2Protocol, ev)
	case s.fl&sHeadIn != 0:
		return c.trailers(s, block, ev)
	}
	return c.response(s, block, ev)
}

// stray is a block for a stream that is not there; never says that it never was.
func (c *Conn) stray(block []byte, never bool) bool {
	known, crossed := c.closed.find(c.blockID)
	switch {
	case known && !crossed:
		c.fail(CodeStreamClosed, fault.H2Protocol, CountProtocolError)
	case never || c.role == Server && !known && !c.closed.full: // it was passed over
		c.protocolError()
	default:
		c.decode(block, &message{})
	}
	return false
}

// request opens a stream (RFC 9113 section 5.1.1).
func (c *Conn) request(block []byte, ev *Event) bool {
	id := c.blockID
	switch {
	case id&1 == 0:
		return c.protocolError()
	case id <= c.highest:
		return c.stray(block, false)
	}
	c.highest = id
	if c.fl&cGoawayOut != 0 && id > c.goawayOut { // it knows, or will soon
		c.opening = 0
		c.decode(block, &message{})
		c.closed.add(id, true)
		return false
	}
	c.lastPeer = id
	if ev.Head == nil || uint32(c.streams.count) >= c.o.MaxConcurrentStreams {
		c.opening = 0
		if c.decode(block, &message{}); c.fl&cFailed == 0 {
			c.counts.inc(CountStreamRefused)
			if c.reject(id, CodeRefusedStream); c.fl&cUnacked == 0 {
				c.early(nil)
			}
		}
		return false
	}
	s := c.sh.get()
	s.id, s.opened, s.fl = id, c.now, sHeadIn
	s.sendWin, s.recvWin, s.recvSize = c.peerWindow, c.ourWindow, c.ourWindow
	m := message{h: ev.Head, s: s, end: c.fl&cBlockEnd != 0, lax: c.o.Lax}
	k := fault.H2Protocol
	if c.fl&cSelfDep == 0 {
		k = c.decode(block, &m)
	} else {
		c.decode(block, &message{})
	}
	if k != fault.None || c.fl&cFailed != 0 {
		ev.Plain = uint32(s.meter.PlainIn)
		c.sh.put(s)
		return c.fl&cFailed == 0 && c.badRequest(id, k, ev)
	}
	s.meter.gotBlock(c.blockIn)
	c.opening = 0
	if s.Head = ev.Head; m.end {
		s.fl |= sRemoteEnd
	}
	c.streams.add(s)
	ev.Kind, ev.Stream, ev.ID, ev.End = EventHead, s, id, m.end
	return true
}

// badRequest ends a stream that the owner has not seen.
func (c *Conn) badRequest(id uint32, k fault.Kind, ev *Event) bool {
	if c.countHead(k); c.fl&cFailed != 0 {
		return false
	}
	if c.reject(id, headCode(k)); !c.early(nil) {
		return false
	}
	c.opening = 0
	ev.Kind, ev.ID, ev.Code, ev.Fault = EventReset, id, headCode(k), k
	return true
}

// headCode is the code of the RST_STREAM for a head or trailers with the fault k: as Envoy's, limits and policies are no protocol errors.
func headCode(k fault.Kind) Code {
	switch k {
	case fault.H2TooManyHeaders, fault.H2HeadersTooLarge, fault.H2Underscore:
		return CodeInternal
	}
	return CodeProtocol
}

// countHead counts the fault of a head or trailers, and fails the connection if that is its end.
func (c *Conn) countHead(k fault.Kind) {
	switch k {
	case fault.H2TooManyHeaders:
		c.counts.inc(CountHeaderOverflow)
	case fault.H2HeadersTooLarge:
		c.counts.inc(CountHeaderListTooLarge)
	case fault.H2Underscore:
		c.counts.inc(CountRejectedUnderscores)
	case fault.H2Protocol, fault.H2Content:
	default:
		if c.o.StreamErrors {
			c.counts.inc(CountRxMessagingError)
			return
		}
		c.fail(CodeProtocol, k, CountRxMessagingError)
	}
}

// reject answers the HEADERS of a stream that is none with RST_STREAM.
func (c *Conn) reject(id uint32, code Code) {
	c.closed.add(id, c.fl&cBlockEnd == 0)
	c.rst(id, code)
	c.ended++
}

// response takes a head in the client role.
func (c *Conn) response(s *Stream, block []byte, ev *Event) bool {
	m := message{h: s.Head, s: s, end: c.fl&cBlockEnd != 0, response: true}
	return c.take(s, c.decode(block, &m), EventHead, m.end, ev)
}

// trailers takes the header block behind the content.
func (c *Conn) trailers(s *Stream, block []byte, ev *Event) bool {
	m := message{tr: s.Trailers, s: s, end: c.fl&cBlockEnd != 0, trailers: true}
	k := c.decode(block, &m)
	if k == fault.None && !m.end {
		k = fault.H2Messaging // RFC 9113 section 8.1
	}
	if c.role == Server { // as in Envoy
		c.counts.inc(CountTrailers)
	}
	return c.take(s, k, EventTrailers, m.end, ev)
}

// take reports a head or trailers of a known stream, or what is wrong with them.
func (c *Conn) take(s *Stream, k fault.Kind, kind EventKind, end bool, ev *Event) bool {
	if c.fl&cFailed != 0 {
		return false
	}
	if k != fault.None {
		if c.countHead(k); c.fl&cFailed != 0 {
			return false
		}
		return c.streamError(s, headCode(k), k, ev)
	}
	s.meter.gotBlock(c.blockIn)
	if end {
		s.fl |= sRemoteEnd
	}
	ev.Kind, ev.Stream, ev.ID, ev.End = kind, s, s.id, end
	return true
}

// decode decodes a block into m and says what is wrong with it. It always goes to the end, unless the connection fails.
func (c *Conn) decode(block []byte, m *message) fault.Kind {
	var f hpack.Field
	k := m.start()
	size, count, plain := 0, 0, 0
	for c.dec.Decode(block); c.dec.Next(&f); {
		size += len(f.Name) + len(f.Value)
		if count++; size > c.o.MaxHeaderBytes || count > c.o.MaxHeaders {
			if size > bombFactor*c.o.MaxHeaderBytes || count > bombFactor*c.o.MaxHeaders {
				m.undo()
				c.fail(CodeEnhanceYourCalm, fault.H2TooManyHeaders, CountHeaderBomb)
				return fault.H2TooManyHeaders
			}
			if k = fault.H2TooManyHeaders; count <= c.o.MaxHeaders {
				k = fault.H2HeadersTooLarge
			}
			continue
		}
		if k != fault.None || m.ignores() {
			continue
		}
		if f.Pseudo != hpack.PseudoNone {
			k = m.pseudo(&f, c)
		} else {
			k = m.field(&f, c)
		}
		if k == fault.None {
			plain += len(f.Name) + len(f.Value)
		}
	}
	if m.s != nil {
		m.s.meter.PlainIn += uint64(plain)
	}
	if c.dec.Error() != hpack.None {
		m.undo()
		c.fail(CodeCompression, fault.H2Protocol, CountProtocolError)
		return fault.H2Protocol
	}
	if k == fault.None {
		k = m.finish()
	}
	if k != fault.None {
		m.undo()
	} else if m.dropped > 0 {
		c.counts.add(CountDroppedUnderscores, uint32(m.dropped))
	}
	return k
}

var (
	keyConnection    = httpmsg.IDConnection.Key()
	keyUpgrade       = httpmsg.IDUpgrade.Key()
	keyContentLength = httpmsg.IDContentLength.Key()
)
