// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

// Status says whether Head found a whole head.
type Status uint8

// The results of Head.
const (
	NeedMore Status = iota
	Done
)

// phase is the place of a Decoder in the message.
type phase uint8

const (
	phHead     phase = iota // expects a head (request: also between messages)
	phIdle                  // response: nothing was asked
	phLength                // left bytes of body to come
	phClose                 // body until the end of the connection
	phTunnel                // after 101, or 2xx to CONNECT: the bytes are no longer HTTP
	phSize                  // first digit of a chunk size
	phSizeMore              // further digits
	phExt                   // chunk extension, see extState
	phSizeLF                // LF that ends a chunk-size line
	phData                  // left bytes of chunk data to come
	phDataCR                // CR after chunk data
	phDataLF                // LF after chunk data
	phDataSkip              // Lax: excess bytes after chunk data, to the LF
	phTrailer               // trailer section, line by line
	phBroken                // a fault was reported; nothing more is read
)

const (
	dResponse byte = 1 << iota
	dSwitch        // the request was CONNECT or an upgrade
	dHead          // the request was HEAD
	dConnect       // the request was CONNECT
)

// Decoder decodes one direction of one connection. The zero value is unusable; call InitRequest or InitResponse.
type Decoder struct {
	// Worker
	o       *Options
	left    int64  // bytes left of the body or chunk; while reading a chunk size: its value
	scanned uint32 // head: bytes already searched for the end
	lineOff uint32 // head: start of the first line not yet checked; trailers: bytes of the section consumed
	lines   uint32 // head and trailers: field lines checked; chunk-size line: bytes seen
	phase   phase
	ext     extState
	flags   byte

	droppedUS uint8 // trailers that headers_with_underscores_action: DROP_HEADER took out
}

// InitRequest makes d the decoder of a server's input.
func (d *Decoder) InitRequest(o *Options) { *d = Decoder{o: o, phase: phHead} }

// InitResponse makes d the decoder of a client's input. BeginResponse must precede each response.
func (d *Decoder) InitResponse(o *Options) { *d = Decoder{o: o, phase: phIdle, flags: dResponse} }

// BeginResponse tells which request the next response answers, as its framing depends on that (RFC 9112 section 6.3). connectOrUpgrade says that
// a 101, or a 2xx to CONNECT, turns the connection into a tunnel.
func (d *Decoder) BeginResponse(reqMethod httpmsg.Method, connectOrUpgrade bool) {
	d.flags = dResponse
	if connectOrUpgrade {
		d.flags |= dSwitch
	}
	switch reqMethod {
	case httpmsg.MethodHead:
		d.flags |= dHead
	case httpmsg.MethodConnect:
		d.flags |= dConnect
	}
	d.arm(phHead)
}

func (d *Decoder) arm(p phase) {
	d.phase, d.left, d.scanned, d.lineOff, d.lines = p, 0, 0, 0, 0
}

// TakeDropped returns how many trailers headers_with_underscores_action: DROP_HEADER has taken out since it was last asked.
func (d *Decoder) TakeDropped() int {
	n := int(d.droppedUS)
	d.droppedUS = 0
	return n
}

// Idle reports that d is at a message boundary: for requests, nothing but empty lines has been seen of the next one; for responses, none is
// outstanding.
func (d *Decoder) Idle() bool {
	return d.phase == phIdle || d.phase == phHead && d.flags&dResponse == 0 && d.lines == 0 && d.scanned == d.lineOff
}

// HasBody reports that body bytes (or the framing of a body) are still to come.
func (d *Decoder) HasBody() bool {
	return d.phase == phLength || d.phase == phClose || d.phase >= phSize && d.phase <= phTrailer
}

// Tunnel reports that the last response turned the connection into a tunnel.
func (d *Decoder) Tunnel() bool { return d.phase == phTunnel }

// EOF is told that the peer has sent FIN. It ends a body that runs until close (end), means nothing at a message boundary and in a tunnel, and
// is a fault inside a message: DownstreamGone for requests; for responses ConnectionTerminate before the first byte, else UpstreamProtocol.
func (d *Decoder) EOF() (end bool, k fault.Kind) {
	switch {
	case d.phase == phClose:
		d.arm(phIdle)
		return true, fault.None
	case d.Idle(), d.phase == phTunnel, d.phase == phBroken:
		return false, fault.None
	case d.flags&dResponse == 0:
		k = fault.DownstreamGone
	case d.phase == phHead && d.scanned == 0:
		k = fault.ConnectionTerminate
	default:
		k = fault.UpstreamProtocol
	}
	d.phase = phBroken
	return false, k
}

// Head decodes one head from in, which starts at the first byte of the message and is contiguous. h must have been Reset with its arena.
//
// NeedMore: nothing is consumed and h is untouched; call again with the same bytes and more. What was searched and checked is remembered, so the
// work is linear in the bytes however they arrive, and a fault is reported as soon as the line that has it is complete.
// Done: the first n bytes are consumed and h is filled: names in lower case with ids, Host moved to Authority, Body, Length, KeepAlive, Upgrade,
// ExpectContinue and TrailersOK set; connection-level fields are still among the Fields (see StripHopByHop). A 1xx response other than a switch
// to a tunnel is a head with Body none after which Head is called again.
// Fault: the connection is done for; h is untouched.
//
// A request without Host has HostCount 0: the caller answers it with fault.MissingHost. A Target that does not start with '/' ("*", "?q", a URL
// with AllowAbsoluteURL off) is for the caller to refuse with fault.AbsolutePathRejected, unless the method is CONNECT, where Target is empty.
func (d *Decoder) Head(in []byte, h *httpmsg.Head) (n int, st Status, k fault.Kind) {
	if d.phase != phHead {
		if len(in) == 0 || d.phase == phBroken {
			return 0, NeedMore, fault.None
		}
		return 0, NeedMore, d.broken(fault.CodecError) // a response nobody asked for
	}
	limit := d.maxHeadBytes()
	if d.scanned == 0 && len(in) <= min(limit, directMax) {
		// Most often in has the whole head. Then looking for its end first would be a tenth of the work.
		if n, k = d.whole(in, h); n > 0 {
			return n, Done, fault.None
		}
	}
	end := d.headEnd(in)
	if end < 0 || end > limit {
		k = d.partial(in, h, limit)
		return 0, NeedMore, k
	}
	if n, k = d.whole(in[:end], h); k != fault.None {
		return 0, NeedMore, d.broken(k)
	}
	return n, Done, fault.None
}

// directMax bounds what whole copies on the guess that it has a head.
const directMax = 2048

// whole decodes the head at the start of in and returns its length; 0 if it does not end in there. Then a fault may be due to that.
func (d *Decoder) whole(in []byte, h *httpmsg.Head) (int, fault.Kind) {
	mark := h.A.Len()
	p := parser{o: d.o, h: h, response: d.flags&dResponse != 0}
	p.read(in)
	ended, k := p.all(emptyLines(in, d.o.Lax, p.response))
	if ended {
		h.A.Truncate(mark + p.last)
		k = d.finish(&p)
	}
	if !ended || k != fault.None {
		h.Reset(h.A)
		h.A.Truncate(mark)
		return 0, k
	}
	if d.o.KeepRawNames {
		p.keepRaw(in)
		if h.Spelling = httpmsg.SpellReceived; d.o.ProperCase {
			h.Spelling = httpmsg.SpellReceivedProper
		}
	}
	return p.pos, fault.None
}

func (d *Decoder) broken(k fault.Kind) fault.Kind {
	d.phase = phBroken
	return k
}

// emptyLines returns the length of the empty lines at the start of in, which a server ignores before a request line (RFC 9112 section 2.2).
func emptyLines(in []byte, lax, response bool) int {
	if response {
		return 0
	}
	i := 0
	for i < len(in) {
		if in[i] == '\r' && i+1 < len(in) && in[i+1] == '\n' {
			i += 2
		} else if in[i] == '\n' && lax {
			i++
		} else {
			break
		}
	}
	return i
}

// headEnd returns the length of the head at the start of in, or -1.
func (d *Decoder) headEnd(in []byte) int {
	if d.lines == 0 && int(d.lineOff) <= len(in) {
		d.lineOff += uint32(emptyLines(in[d.lineOff:], d.o.Lax, d.flags&dResponse != 0))
	}
	from := max(int(d.scanned)-3, int(d.lineOff)-3)
	if d.lines == 0 {
		from = max(int(d.scanned)-3, int(d.lineOff))
	}
	if from = max(from, 0); from > len(in) {
		return -1
	}
	end := -1
	if i := blankLine(in, from); i >= 0 {
		end = i + 4
	}
	if d.o.Lax {
		for _, t := range laxEnds {
			if i := bytes.Index(in[from:], t); i >= 0 && (end < 0 || from+i+len(t) < end) {
				end = from + i + len(t)
			}
		}
	}
	return end
}

var laxEnds = [...][]byte{[]byte("\n\r\n"), []byte("\n\n")}

// partial checks the lines that are complete, and the limits, when the head is not complete within limit.
func (d *Decoder) partial(in []byte, h *httpmsg.Head, limit int) fault.Kind {
	seen := in[:min(len(in), limit)]
	off, last := int(d.lineOff), -1
	if fresh := max(off, int(d.scanned)); fresh < len(seen) { // a line end among the bytes not seen before?
		if last = bytes.LastIndexByte(seen[fresh:], '\n'); last >= 0 {
			last += fresh - off
		}
	}
	if last >= 0 {
		mark := h.A.Len()
		p := parser{o: d.o, h: h, response: d.flags&dResponse != 0, lines: int(d.lines)}
		p.read(seen[off : off+last+1])
		k := p.some()
		h.Reset(h.A)
		h.A.Truncate(mark)
		if k != fault.None {
			return d.broken(k)
		}
		d.lineOff, d.lines = uint32(off+last+1), uint32(p.lines)
	}
	if d.lines == 0 && len(seen) > int(d.lineOff) {
		if !plausibleStart(seen[d.lineOff:], d.o, d.flags&dResponse != 0) {
			return d.broken(fault.CodecError)
		}
	}
	if len(in) > limit {
		return d.broken(fault.HeadersTooLarge)
	}
	d.scanned = uint32(len(in))
	return fault.None
}

// plausibleStart looks at an incomplete first line, so that another protocol (TLS, for one) on the port is refused at once.
func plausibleStart(b []byte, o *Options, response bool) bool {
	if response {
		n := min(len(b), len("HTTP/"))
		return string(b[:n]) == "HTTP/"[:n]
	}
	for i, c := range b {
		switch {
		case c == ' ' && i > 0, c == '\r', c == '\n', o.Lax && isBlank(c):
			return true
		case token[c] == 0:
			return false
		case i >= maxMethod:
			return o.AllowCustomMethods
		}
	}
	return true
}
