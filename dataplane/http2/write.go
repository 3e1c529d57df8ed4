// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"strconv"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/http2/hpack"
	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/sys"
)

// Pending is the output that has not left. Valid until the next call of anything but Sent. Hand it over only when the connection below holds no
// output of its own any more: what piles up here is what the flood limits count.
func (c *Conn) Pending() []byte { return c.out[c.off:] }

// Sent says that the first n bytes of Pending have left.
func (c *Conn) Sent(n int) {
	c.lastData = -1
	if c.off += n; c.off == len(c.out) {
		c.sh.Bufs.Put(c.out)
		c.out = nil
		c.off, c.frameAt, c.frames, c.controls = 0, 0, 0, 0
		return
	}
	for c.frameAt+frameHeader <= c.off {
		h := parseHeader(c.out[c.frameAt:])
		next := c.frameAt + frameHeader + int(h.length)
		if next > c.off {
			break
		}
		c.frames--
		if isControl(h.typ) {
			c.controls--
		}
		c.frameAt = next
	}
}

func (c *Conn) queued() int { return len(c.out) - c.off }

// room is how much content the output takes.
func (c *Conn) room() int { return max(c.o.OutputLimit-c.queued(), 0) }

// grow makes room for n more bytes of output.
func (c *Conn) grow(n int) {
	switch {
	case cap(c.out)-len(c.out) >= n:
	case c.out == nil:
		c.out = c.sh.Bufs.Get(n)
	default:
		if base := min(c.off, c.frameAt); base > 0 { // the header of a frame that has left in part stays, as Sent needs it
			c.out = c.out[:copy(c.out, c.out[base:])]
			c.off -= base
			c.frameAt -= base
			if c.lastData >= 0 {
				c.lastData -= base
			}
		}
		c.out = c.sh.Bufs.Grow(c.out, n)
	}
}

func isControl(t frameType) bool { return t == ftPing || t == ftSettings || t == ftRstStream }

// sent counts a frame that was put into the output.
func (c *Conn) sent(t frameType) {
	c.lastData = -1
	if c.frames++; c.frames > c.o.MaxOutboundFrames {
		c.fail(CodeEnhanceYourCalm, fault.H2OutboundFlood, CountOutboundFlood)
	}
	if isControl(t) {
		if c.controls++; c.controls > c.o.MaxOutboundControl {
			c.fail(CodeEnhanceYourCalm, fault.H2OutboundFlood, CountOutboundControlFlood)
		}
	}
}

// fieldOverhead is more than what HPACK adds to name and value of a literal.
const fieldOverhead = 16

// blockSize bounds a header block of the fields with extra octets of pseudo-headers.
func blockSize(f *httpmsg.Fields, extra int) int {
	n := extra + 8*fieldOverhead
	for i := range f.List {
		if l := &f.List[i]; !l.Dead {
			n += int(l.Name.Len) + int(l.Value.Len) + fieldOverhead
		}
	}
	return n
}

// openBlock starts a HEADERS frame.
func (c *Conn) openBlock(size int) (at int) {
	c.grow(frameHeader + size + frameHeader*(size/maxFrame))
	at = len(c.out)
	c.out = c.enc.Begin(c.out[:at+frameHeader])
	return at
}

// closeBlock finishes the HEADERS frame at at, in several frames if it is too long for one (RFC 9113 section 6.10).
func (c *Conn) closeBlock(at int, s *Stream, flags byte) {
	n, id := len(c.out)-at-frameHeader, s.id
	s.meter.WireOut += uint64(frameHeader + n)
	s.meter.HeadOut += uint64(frameHeader + n)
	first := min(n, maxFrame)
	if n == first {
		flags |= flagEndHeaders
	}
	appendHeader(c.out[at:at], first, ftHeaders, flags, id)
	rest := n - first
	frames := (rest + maxFrame - 1) / maxFrame
	c.grow(frameHeader * frames)
	at = len(c.out) - rest
	c.out = c.out[:len(c.out)+frameHeader*frames]
	for i := frames - 1; i >= 0; i-- { // from the end, as each moves over what the next is at
		size := min(rest-i*maxFrame, maxFrame)
		to := at + i*(maxFrame+frameHeader)
		copy(c.out[to+frameHeader:], c.out[at+i*maxFrame:at+i*maxFrame+size])
		flags = 0
		if i == frames-1 {
			flags = flagEndHeaders
		}
		appendHeader(c.out[to:to], size, ftContinuation, flags, id)
	}
	for range 1 + frames { // last, as it may have something to add
		c.sent(ftHeaders)
	}
}

// hop reports fields that HTTP/2 does not have (RFC 9113 section 8.2.2), or that are sent in another way.
func hop(id httpmsg.ID) bool {
	switch id {
	case httpmsg.IDConnection, httpmsg.IDKeepAlive, httpmsg.IDProxyConnection, httpmsg.IDTransferEncoding, httpmsg.IDUpgrade:
		return true
	}
	return false
}

// appendFields encodes the fields, and the content-length that h.Body asks for: as http1.AppendRequestHead does. It returns the octets of names and values.
func (c *Conn) appendFields(h *httpmsg.Head, request bool) (plain uint64) {
	for i := range h.List {
		f := &h.List[i]
		if f.Dead {
			continue
		}
		if f.ID == httpmsg.IDOther {
			plain += uint64(f.Name.Len) + uint64(f.Value.Len)
			c.out = c.enc.AppendField(c.out, f.ID, h.Name(i), h.Value(i), f.Sensitive)
			continue
		}
		switch {
		case hop(f.ID), f.ID == httpmsg.IDHost && request, f.ID == httpmsg.IDContentLength && (h.Body != httpmsg.BodyNone || h.Upgrade):
			continue
		case f.ID == httpmsg.IDTE && request && !equalFold(h.Value(i), "trailers"):
			continue
		}
		plain += uint64(f.Name.Len) + uint64(f.Value.Len)
		c.out = c.enc.AppendKnown(c.out, f.ID, h.Value(i), f.Sensitive)
	}
	if h.Body == httpmsg.BodyLength {
		var t [20]byte
		v := strconv.AppendInt(t[:0], h.Length, 10)
		plain += uint64(len("content-length") + len(v))
		c.out = c.enc.AppendKnown(c.out, httpmsg.IDContentLength, v, false)
	}
	return plain
}

var (
	contentLength = []byte("content-length")
	schemeHTTP    = []byte("http")
	methodConnect = []byte("CONNECT")
)

// OpenStream opens a stream with a request (client role); end says that there is no content. It returns nil when Slots is 0, and for an Upgrade when the
// peer's SETTINGS do not take extended CONNECT; before they have come it is sent as Envoy does, hoping for the best. h must live as long as the stream; the owner sets Head and Trailers of the stream for the answer.
func (c *Conn) OpenStream(h *httpmsg.Head, end bool, now sys.Nanos) *Stream {
	if c.Slots() == 0 || h.Upgrade && !c.ExtendedConnect() && c.fl&cFirst == 0 {
		return nil
	}
	c.now = now
	c.checkIdle()
	if c.lastOwn == 0 {
		c.lastOwn = 1
	} else {
		c.lastOwn += 2
	}
	s := c.sh.get()
	s.id, s.opened, s.request = c.lastOwn, now, h
	s.sendWin, s.recvWin, s.recvSize = c.peerWindow, c.ourWindow, c.ourWindow
	c.streams.add(s)
	c.opened++
	at := c.openBlock(blockSize(&h.Fields, int(h.MethodName.Len+h.Target.Len+h.Authority.Len+h.Scheme.Len)))
	c.appendRequest(h, s)
	c.closeBlock(at, s, c.endFlag(s, end))
	s.fl |= sHeadOut
	return s
}

// endFlag marks s as ended by us if end is set and returns the flag for the frame.
func (c *Conn) endFlag(s *Stream, end bool) byte {
	if !end {
		return 0
	}
	s.fl |= sLocalEnd
	return flagEndStream
}

// pseudo encodes a pseudo-header of a request on s.
func (c *Conn) pseudo(s *Stream, p hpack.Pseudo, value []byte) {
	s.meter.PlainOut += uint64(len(p.String()) + len(value))
	c.out = c.enc.AppendPseudo(c.out, p, value, false)
}

func (c *Conn) appendRequest(h *httpmsg.Head, s *Stream) {
	scheme := h.SchemeBytes()
	if len(scheme) == 0 {
		scheme = schemeHTTP
	}
	switch {
	case h.Upgrade: // RFC 8441 section 4
		s.fl |= sUpgrade | sTunnel
		c.pseudo(s, hpack.PseudoMethod, methodConnect)
		c.pseudo(s, hpack.PseudoProtocol, h.Get(httpmsg.IDUpgrade))
	case h.Method == httpmsg.MethodConnect: // RFC 9113 section 8.5
		s.fl |= sTunnel
		c.pseudo(s, hpack.PseudoMethod, methodConnect)
		c.pseudo(s, hpack.PseudoAuthority, h.Host())
		s.meter.PlainOut += c.appendFields(h, true)
		return
	default:
		if h.Method == httpmsg.MethodHead {
			s.fl |= sBodyless
		}
		c.pseudo(s, hpack.PseudoMethod, h.MethodBytes())
	}
	c.pseudo(s, hpack.PseudoScheme, scheme)
	if h.Authority.Len > 0 {
		c.pseudo(s, hpack.PseudoAuthority, h.Host())
	}
	c.pseudo(s, hpack.PseudoPath, h.Path())
	s.meter.PlainOut += c.appendFields(h, true)
}

// SendHead sends the head of a response (server role): any number of 1xx, then one final one; end says that nothing follows. An Upgrade's 101
// goes out as 200. Nothing happens on a stream that was reset.
func (c *Conn) SendHead(s *Stream, h *httpmsg.Head, end bool) {
	if !c.maySend(s) {
		return
	}
	status := h.Status
	if status == 101 && s.fl&sUpgrade != 0 {
		status = 200
	}
	at := c.openBlock(blockSize(&h.Fields, 0))
	c.out = c.enc.AppendStatus(c.out, status)
	s.meter.PlainOut += uint64(len(":status")+3) + c.appendFields(h, false)
	if status >= 200 && s.fl&sHeadOut == 0 {
		s.fl |= sHeadOut
		c.opened++
	}
	c.closeBlock(at, s, c.endFlag(s, end && status >= 200))
}

// SendTrailers ends the stream with trailers, or without if there are none to send. All content was sent before.
func (c *Conn) SendTrailers(s *Stream, tr *httpmsg.Fields) {
	if !c.maySend(s) {
		return
	}
	if tr == nil || tr.Live() == 0 {
		c.SendData(s, nil, true)
		return
	}
	at := c.openBlock(blockSize(tr, 0))
	for i := range tr.List {
		if f := &tr.List[i]; !f.Dead && !hop(f.ID) && f.ID != httpmsg.IDTE && f.ID != httpmsg.IDHost && f.ID != httpmsg.IDContentLength {
			s.meter.PlainOut += uint64(f.Name.Len) + uint64(f.Value.Len)
			c.out = c.enc.AppendField(c.out, f.ID, tr.Name(i), tr.Value(i), f.Sensitive)
		}
	}
	c.closeBlock(at, s, c.endFlag(s, true))
}

// maySend reports that s can still carry something of ours.
func (c *Conn) maySend(s *Stream) bool { return c.fl&cFailed == 0 && s.fl&(sReset|sLocalEnd) == 0 }

// SendData sends as much of p as there is credit for and returns how much that was; end says that p is the last of the message, and goes out with its last byte.
// When not all was taken, NextWritable returns the stream as soon as there is credit.
func (c *Conn) SendData(s *Stream, p []byte, end bool) int {
	if !c.maySend(s) {
		return len(p) // into the void, as the reset stream's owner will learn
	}
	if len(p) == 0 {
		if end {
			c.sendEnd(s)
		}
		return 0
	}
	total := min(len(p), c.Credit(s))
	if total < len(p) {
		end = false
		c.wait(s)
	}
	s.sendWin -= int32(total)
	c.sendWin -= int32(total)
	s.meter.WireOut += uint64(total)
	for rest := p[:total]; len(rest) > 0; {
		n, room := len(rest), 0
		if c.lastData >= 0 && parseHeader(c.out[c.lastData:]).id == s.id {
			room = maxFrame - (len(c.out) - c.lastData - frameHeader)
		}
		if room == 0 {
			room = maxFrame
			c.grow(frameHeader + min(n, maxFrame))
			at := len(c.out)
			c.out = appendHeader(c.out, 0, ftData, 0, s.id)
			s.meter.WireOut += frameHeader
			c.datas++
			if c.sent(ftData); c.fl&cFailed != 0 {
				break
			}
			c.lastData = at
		}
		n = min(n, room)
		c.grow(n)
		c.out = append(c.out, rest[:n]...)
		putLength(c.out[c.lastData:], len(c.out)-c.lastData-frameHeader)
		rest = rest[n:]
	}
	if end {
		c.sendEnd(s)
	}
	return total
}

// DataOctets is what n octets of content take in DATA frames.
func DataOctets(n int) uint64 { return uint64(n + (n+maxFrame-1)/maxFrame*frameHeader) }

// sendEnd ends the stream with the DATA frame that was sent last, if it is still here, or with an empty one.
func (c *Conn) sendEnd(s *Stream) {
	s.fl |= sLocalEnd
	if c.fl&cFailed != 0 {
		return
	}
	if c.lastData >= 0 && parseHeader(c.out[c.lastData:]).id == s.id {
		c.out[c.lastData+4] |= flagEndStream
		c.lastData = -1
		return
	}
	c.grow(frameHeader)
	c.out = appendHeader(c.out, 0, ftData, flagEndStream, s.id)
	s.meter.WireOut += frameHeader
	c.datas++
	c.sent(ftData)
}

// SendReset ends the stream with RST_STREAM, unless it is over anyway. What was sent before still goes out.
func (c *Conn) SendReset(s *Stream, code Code) {
	if s.fl&sReset != 0 {
		return
	}
	over := s.Closed()
	s.fl |= sReset
	if c.fl&cFailed != 0 || over && code != CodeStreamClosed {
		return
	}
	s.fl |= sOurReset
	s.meter.WireOut += frameHeader + 4
	c.rst(s.id, code)
}

func (c *Conn) rst(id uint32, code Code) {
	c.grow(frameHeader + 4)
	c.out = appendHeader(c.out, 4, ftRstStream, 0, id)
	c.append32(uint32(code))
	c.counts.inc(CountTxReset)
	c.sent(ftRstStream)
}

func (c *Conn) append32(v uint32) {
	c.out = append(c.out, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

// SendGoaway tells the peer that streams above last are not taken (RFC 9113 section 6.8). A server drains in two steps: MaxStream says that the end is
// near and changes nothing; a while later LastStream refuses what comes after, and the connection is over when its streams are.
func (c *Conn) SendGoaway(last uint32, code Code) {
	if c.fl&cFailed != 0 {
		return
	}
	c.goawayFrame(min(last, c.lastGoaway()), code)
	if last != MaxStream {
		c.counts.inc(CountGoawaySent) // as in Envoy: neither the first of two, nor one that ends the connection
	}
}

func (c *Conn) goawayFrame(last uint32, code Code) {
	c.fl |= cGoawayOut
	c.goawayOut = last
	c.grow(frameHeader + 8)
	c.out = appendHeader(c.out, 8, ftGoaway, 0, 0)
	c.append32(last)
	c.append32(uint32(code))
	c.sent(ftGoaway)
}

// MaxStream is the last-stream-id of a GOAWAY that leaves nothing out.
const MaxStream = maxStreamID

// LastStream is the highest stream of the peer that was taken.
func (c *Conn) LastStream() uint32 { return c.lastPeer }

// lastGoaway bounds what a GOAWAY may say: never more than the one before.
func (c *Conn) lastGoaway() uint32 {
	if c.fl&cGoawayOut != 0 {
		return c.goawayOut
	}
	return maxStreamID
}

// Slots is how many streams can be opened now (client role): none after a GOAWAY, or when the identifiers are used up.
func (c *Conn) Slots() int {
	if c.fl&(cFailed|cGoawayIn|cGoawayOut) != 0 || c.lastOwn >= maxStreamID-2 {
		return 0
	}
	return max(int(min(c.peerMax, c.o.MaxConcurrentStreams))-c.streams.count, 0)
}

// Draining reports that a GOAWAY was received: the connection takes no new streams.
func (c *Conn) Draining() bool { return c.fl&cGoawayIn != 0 }

// ExtendedConnect reports that the peer takes extended CONNECT (RFC 8441).
func (c *Conn) ExtendedConnect() bool { return c.fl&cConnect != 0 }
