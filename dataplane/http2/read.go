// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"

	"sidecar/dataplane/fault"
)

// begin acts on a frame header.
func (c *Conn) begin(ev *Event) bool {
	h := &c.h
	c.left, c.pad = h.length, 0
	if c.fl&cFirst != 0 { // RFC 9113 section 3.4
		if h.typ != ftSettings || h.flags&flagAck != 0 {
			return c.protocolError()
		}
		c.fl &^= cFirst
	}
	if h.length > maxFrame {
		c.fail(CodeFrameSize, fault.H2Protocol, CountProtocolError)
		return false
	}
	if c.fl&cInBlock != 0 && h.typ != ftContinuation { // section 6.10
		return c.protocolError()
	}
	switch h.typ {
	case ftData:
		return c.beginData(ev)
	case ftHeaders:
		return c.beginHeaders(ev)
	case ftContinuation:
		return c.beginContinuation(ev)
	case ftPriority:
		c.beginFixed(5, 5, h.id != 0)
	case ftRstStream:
		c.beginFixed(4, 4, h.id != 0)
	case ftSettings:
		return c.beginSettings(ev)
	case ftPushPromise: // nobody may push to us: we say so, or are a server (section 8.4)
		return c.protocolError()
	case ftPing:
		c.beginFixed(8, 8, h.id == 0)
	case ftGoaway:
		c.beginFixed(8, maxFrame, h.id == 0)
	case ftWindowUpdate:
		c.beginFixed(4, 4, true)
	default: // section 5.5
		c.skip()
	}
	return false
}

// skip ignores the rest of the frame.
func (c *Conn) skip() {
	if c.phase = phSkip; c.left == 0 {
		c.phase = phFrame
	}
}

// beginFixed waits for the first size octets of a payload of at most most; idOK says that the frame may be on its stream.
func (c *Conn) beginFixed(size uint8, most uint32, idOK bool) {
	switch {
	case !idOK:
		c.protocolError()
	case c.h.length < uint32(size) || c.h.length > most:
		c.fail(CodeFrameSize, fault.H2Protocol, CountProtocolError)
	default:
		c.phase, c.need = phFixed, size
	}
}

// fixed acts on the octets that beginFixed waited for.
func (c *Conn) fixed(ev *Event) bool {
	p := c.part[:]
	switch c.h.typ {
	case ftData:
		return c.dataPadding(ev)
	case ftHeaders:
		return c.headersPrefix(ev)
	case ftSettings:
		return c.setting(ev)
	case ftPriority:
		c.skip()
		return c.priority(ev)
	case ftRstStream:
		c.skip()
		return c.rstStream(Code(binary.BigEndian.Uint32(p)), ev)
	case ftPing:
		c.skip()
		c.ping()
	case ftGoaway:
		c.skip()
		return c.goaway(binary.BigEndian.Uint32(p)&maxStreamID, Code(binary.BigEndian.Uint32(p[4:])), ev)
	case ftWindowUpdate:
		c.skip()
		return c.windowUpdated(binary.BigEndian.Uint32(p)&maxWindow, ev)
	}
	return false
}

// emptyFrame counts frames that carry nothing.
func (c *Conn) emptyFrame(empty bool) {
	if !empty {
		c.empty = 0
		return
	}
	if c.empty++; c.empty > c.o.MaxEmptyFrames {
		c.fail(CodeEnhanceYourCalm, fault.H2EmptyFrames, CountEmptyFramesFlood)
	}
}

// idle reports that no stream of that id was ever opened by the end whose right that is.
func (c *Conn) idle(id uint32) bool {
	if c.role == Server {
		return id&1 == 0 || id > c.highest
	}
	return id&1 == 0 || id > c.lastOwn
}

// beginData: RFC 9113 section 6.1. Padding and all count against both windows.
func (c *Conn) beginData(ev *Event) bool {
	h := &c.h
	if h.id == 0 || c.idle(h.id) {
		return c.protocolError()
	}
	n := int32(h.length)
	if n > c.recvWin {
		c.fail(CodeFlowControl, fault.H2Protocol, CountProtocolError)
		return false
	}
	c.recvWin -= n
	s := c.streams.find(h.id)
	c.cur = nil
	switch {
	case s == nil:
		switch known, crossed := c.closed.find(h.id); {
		case known && !crossed:
			c.fail(CodeStreamClosed, fault.H2Protocol, CountProtocolError)
			return false
		case !known && !c.closed.full: // it was passed over
			return c.protocolError()
		}
	case s.fl&sRemoteEnd != 0:
		return c.refuse(s, CodeStreamClosed, n, ev)
	case s.fl&sReset != 0:
	case s.fl&sHeadIn == 0:
		return c.refuse(s, CodeProtocol, n, ev)
	case n > s.recvWin:
		return c.refuse(s, CodeFlowControl, n, ev)
	default:
		c.cur = s
		s.recvWin -= n
		s.held += n
	}
	if c.cur == nil {
		c.give(n)
	}
	switch {
	case h.flags&flagPadded != 0:
		if n == 0 {
			c.fail(CodeFrameSize, fault.H2Protocol, CountProtocolError)
			return false
		}
		c.phase, c.need = phFixed, 1
		return false
	case c.cur == nil:
		c.skip()
		return false
	}
	return c.beginContent(ev)
}

// refuse answers a DATA frame with a stream error and ignores it.
func (c *Conn) refuse(s *Stream, code Code, n int32, ev *Event) bool {
	c.give(n)
	c.skip()
	return c.streamError(s, code, fault.H2Protocol, ev)
}

// dataPadding takes the padding length.
func (c *Conn) dataPadding(ev *Event) bool {
	c.pad = uint32(c.part[0])
	if c.pad > c.left {
		return c.protocolError()
	}
	if c.cur == nil {
		c.skip()
		return false
	}
	c.consume(c.cur, 1+int32(c.pad)) // nobody else will
	return c.beginContent(ev)
}

// beginContent starts on the content of a DATA frame, whose padding is known.
func (c *Conn) beginContent(ev *Event) bool {
	s, n := c.cur, c.left-c.pad
	end := c.h.flags&flagEndStream != 0
	if c.emptyFrame(n == 0 && !end); c.fl&cFailed != 0 {
		return false
	}
	if !c.content(s, int64(n), end) {
		c.skip()
		c.consume(s, int32(n))
		return c.streamError(s, CodeProtocol, fault.H2Content, ev)
	}
	s.meter.WireIn += frameHeader + uint64(c.h.length)
	c.phase = phData
	if c.left > 0 {
		return false
	}
	c.phase = phFrame
	return end && c.endData(s, nil, ev)
}

// content checks n bytes of content against what was declared (RFC 9113 section 8.1.1).
func (c *Conn) content(s *Stream, n int64, end bool) bool {
	if s.fl&sUnframed != 0 {
		return true
	}
	s.left -= n
	return s.left >= 0 && !(end && s.left > 0)
}

// data passes content on as it comes. The stream may have been closed meanwhile.
func (c *Conn) data(in []byte, ev *Event) (n int, got bool) {
	s := c.cur
	n = int(min(uint32(len(in)), c.left))
	body := min(n, int(c.left-c.pad))
	c.left -= uint32(n)
	if c.left < c.pad {
		c.pad = c.left
	}
	done := c.left == 0
	if done {
		c.phase = phFrame
	}
	if s == nil {
		return n, false // released, and all its bytes were given back
	}
	if s.fl&sReset != 0 {
		c.consume(s, int32(body))
		return n, false
	}
	if done && c.h.flags&flagEndStream != 0 {
		return n, c.endData(s, in[:body], ev)
	}
	if body == 0 {
		return n, false
	}
	ev.Kind, ev.Stream, ev.ID, ev.Data = EventData, s, s.id, in[:body]
	return n, true
}

func (c *Conn) endData(s *Stream, p []byte, ev *Event) bool {
	s.fl |= sRemoteEnd
	ev.Kind, ev.Stream, ev.ID, ev.Data, ev.End = EventData, s, s.id, p, true
	return true
}

// priority: RFC 9113 section 6.3. What it says is deprecated and ignored, but for a stream that depends on itself.
func (c *Conn) priority(ev *Event) bool {
	if c.prios++; c.prios > uint64(c.o.MaxPriorityPerStream)*(1+uint64(c.opened)) {
		c.fail(CodeEnhanceYourCalm, fault.H2PriorityFlood, CountPriorityFlood)
		return false
	}
	if binary.BigEndian.Uint32(c.part[:])&maxStreamID != c.h.id {
		return false
	}
	if s := c.streams.find(c.h.id); s != nil {
		return c.streamError(s, CodeProtocol, fault.H2Protocol, ev)
	}
	return c.protocolError()
}

// rstStream: RFC 9113 section 6.4.
func (c *Conn) rstStream(code Code, ev *Event) bool {
	if c.idle(c.h.id) {
		return c.protocolError()
	}
	s := c.streams.find(c.h.id)
	if s == nil || s.fl&sReset != 0 { // it crossed our end of the stream, which happens once a stream
		if c.strays++; c.strays > strayResets+c.Streams() {
			c.fail(CodeEnhanceYourCalm, fault.H2Flood, CountProtocolError)
		}
		return false
	}
	c.counts.inc(CountRxReset)
	s.meter.WireIn += frameHeader + 4
	done := s.Closed()
	s.fl |= sReset
	if !done && !c.early(s) {
		return false
	}
	ev.Kind, ev.Stream, ev.ID, ev.Code, ev.Remote, ev.Fault = EventReset, s, s.id, code, true, fault.H2RemoteReset
	if code == CodeRefusedStream {
		ev.Fault, ev.Unprocessed = fault.H2RemoteRefuse, c.role == Client
	}
	return true
}

// early counts a stream that was over before it had an answer; false when that ends the connection (CVE-2023-44487 and its variant in which we are
// provoked to reset). The rule is Envoy's: half of the streams, once there were enough of them.
func (c *Conn) early(s *Stream) bool {
	if c.role == Client || s != nil && (s.fl&sHeadOut != 0 || c.now-s.opened > c.o.PrematureLifetime) {
		return true
	}
	c.premature++
	if limit := c.o.PrematureResets; limit > 0 && uint64(c.premature)*2 >= uint64(max(limit, c.ended+1)) {
		c.fail(CodeEnhanceYourCalm, fault.H2PrematureResets, CountPrematureResets)
		return false
	}
	return true
}

// ping: RFC 9113 section 6.7.
func (c *Conn) ping() {
	if c.h.flags&flagAck != 0 {
		c.pong()
		return
	}
	c.grow(frameHeader + 8)
	c.out = appendHeader(c.out, 8, ftPing, flagAck, 0)
	c.out = append(c.out, c.part[:8]...)
	c.sent(ftPing)
}

// goaway: RFC 9113 section 6.8.
func (c *Conn) goaway(last uint32, code Code, ev *Event) bool {
	if c.fl&cGoawayIn != 0 && last > c.goawayIn {
		return c.protocolError()
	}
	c.fl |= cGoawayIn
	c.goawayIn = last
	if c.role == Client {
		c.fl |= cSweep
	}
	ev.Kind, ev.ID, ev.Code = EventGoaway, last, code
	return true
}

// sweep reports one of the streams that the peer's GOAWAY leaves out.
func (c *Conn) sweep(ev *Event) bool {
	for s := c.streams.newest; s != nil && s.id > c.goawayIn; s = s.older {
		if s.Closed() {
			continue
		}
		s.fl |= sReset
		ev.Kind, ev.Stream, ev.ID, ev.Code, ev.Remote, ev.Unprocessed, ev.Fault = EventReset, s, s.id, CodeRefusedStream, true, true, fault.H2RemoteRefuse
		return true
	}
	c.fl &^= cSweep
	return false
}

// windowUpdated: RFC 9113 section 6.9.
func (c *Conn) windowUpdated(n uint32, ev *Event) bool {
	c.wins++
	if most := 5 + 2*(uint64(c.opened)+uint64(c.o.MaxWindowUpdatePerData)*c.datas); c.wins > most {
		c.fail(CodeEnhanceYourCalm, fault.H2WindowFlood, CountWindowUpdateFlood)
		return false
	}
	if c.h.id == 0 {
		switch {
		case n == 0:
			return c.protocolError()
		case int64(c.sendWin)+int64(n) > maxWindow:
			c.fail(CodeFlowControl, fault.H2Protocol, CountProtocolError)
		default:
			c.sendWin += int32(n)
		}
		return false
	}
	if c.idle(c.h.id) {
		return c.protocolError()
	}
	s := c.streams.find(c.h.id)
	switch {
	case s == nil || s.fl&sReset != 0:
		return false
	case n == 0:
		return c.streamError(s, CodeProtocol, fault.H2Protocol, ev)
	case int64(s.sendWin)+int64(n) > maxWindow:
		return c.streamError(s, CodeFlowControl, fault.H2Protocol, ev)
	}
	s.sendWin += int32(n)
	c.want(s)
	return false
}

// streamError resets s because of what the peer did (RFC 9113 section 5.4.2).
func (c *Conn) streamError(s *Stream, code Code, k fault.Kind, ev *Event) bool {
	if s.fl&sReset != 0 {
		return false
	}
	c.SendReset(s, code)
	if !c.early(s) {
		return false
	}
	ev.Kind, ev.Stream, ev.ID, ev.Code, ev.Fault = EventReset, s, s.id, code, k
	return true
}
