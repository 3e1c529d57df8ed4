// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

// What the lines of a head said; evaluated together when the head is complete, so that the result does not depend on how the bytes arrived.
const (
	sBadLength uint16 = 1 << iota
	sChunked
	sClose
	sKeepAlive
	sConnUpgrade
	sConnHost
	sUpgrade
	sH2C
	sNoVersion
	sExpect
	sConnRejected
)

// maxNominated bounds the elements of Connection in a request, which bounds the work of StripHopByHop too; Envoy's number.
const maxNominated = 9

// parser reads the lines of a head from the first end bytes of buf, which are a copy in the arena of h at offset base, with a pad behind. Names are
// lowered in place.
type parser struct {
	o    *Options
	h    *httpmsg.Head
	buf  []byte
	base uint32

	end     int   // where the pad starts
	last    int   // where the empty line starts
	pos     int   // next byte; beyond end when a line took a line end from the pad
	lines   int   // lines read: the first line counts as one
	length  int64 // content-length
	hosts   int
	lengths int
	codings int

	nominated int // elements of Connection
	host2     httpmsg.Span
	flags     uint16
	response  bool

	targetHost httpmsg.Span // authority named by the request target
	rootTarget bool         // absolute form without path: the target is "/"
}

func (p *parser) span(from, to int) httpmsg.Span {
	return httpmsg.Span{Off: p.base + uint32(from), Len: uint32(to - from)}
}

// read makes p the parser of in.
func (p *parser) read(in []byte) {
	b := p.h.A.Tail()
	p.base, p.end = uint32(len(b)), len(in)
	b = append(append(b, in...), pad...)
	p.h.A.Take(b)
	p.buf = b[p.base:]
}

// all reads lines from offset from to the end of the head; ended says whether it is there.
func (p *parser) all(from int) (ended bool, k fault.Kind) {
	if p.pos = from; from >= p.end {
		return false, fault.None
	}
	if k = p.startLine(); k != fault.None {
		return false, k
	}
	limit := p.o.maxHeaders()
	for p.lines = 1; p.pos < p.end; p.lines++ {
		if p.last = p.pos; p.buf[p.pos] <= '\r' && p.atEnd() {
			return p.pos <= p.end, fault.None
		}
		if p.lines > limit {
			return false, fault.TooManyHeaders
		}
		if k = p.field(); k != fault.None {
			return false, k
		}
	}
	return false, fault.None
}

// some reads the complete lines of an incomplete head.
func (p *parser) some() (k fault.Kind) {
	for ; p.pos < p.end && k == fault.None; p.lines++ {
		switch {
		case p.lines == 0:
			k = p.startLine()
		case p.lines > p.o.maxHeaders():
			k = fault.TooManyHeaders
		default:
			k = p.field()
		}
	}
	return k
}

// atEnd consumes the empty line, if that is what comes.
func (p *parser) atEnd() bool {
	b := p.buf[p.pos:]
	switch {
	case b[0] == '\r' && b[1] == '\n':
		p.pos += 2
	case b[0] == '\n' && p.o.Lax:
		p.pos++
	default:
		return false
	}
	return true
}

func (p *parser) startLine() fault.Kind {
	if p.response {
		return p.statusLine()
	}
	return p.requestLine()
}

// lineEnd returns where the content of the line at p.pos ends, from offset i on, and moves p.pos to the next line; -1 when the line has a control
// character or a bare CR or LF (RFC 9112 section 2.2). Lax: a bare LF ends the line and a bare CR reads as a blank.
func (p *parser) lineEnd(i int) int {
	b := p.buf
	for {
		if i = control(b, i); i >= len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '\r' && i+1 < len(b) && b[i+1] == '\n':
			p.pos = i + 2
			return i
		case c == '\t':
		case c == '\r' && p.o.Lax:
			b[i] = ' '
		case c == '\n' && p.o.Lax:
			p.pos = i + 1
			return i
		default:
			return -1
		}
		i++
	}
}

const version11 = "HTTP/1.1"

// requestLine: RFC 9112 section 3.
func (p *parser) requestLine() fault.Kind {
	start, h := p.pos, p.h
	if p.o.Lax {
		return p.laxRequestLine()
	}
	sp := start
	for token[p.buf[sp]] != 0 { // the line ends in LF, which is no token
		sp++
	}
	if p.buf[sp] != ' ' || sp == start {
		return fault.CodecError
	}
	if k := p.method(start, sp); k != fault.None {
		return k
	}
	if end := sp + 1 + visible(p.buf[sp+1:]); string(p.buf[end:min(end+len(endOfRequestLine), len(p.buf))]) == endOfRequestLine {
		h.Version, p.pos = httpmsg.HTTP11, end+len(endOfRequestLine)
		return p.target(sp+1, end)
	}
	end := p.lineEnd(sp + 1)
	if end < 0 {
		return p.startLineFault(sp + 1)
	}
	rest := p.buf[sp+1 : end]
	cut := len(rest) - len(version11) - 1
	if cut >= 0 && rest[cut] == ' ' && string(rest[cut+1:]) == version11 {
		h.Version = httpmsg.HTTP11
	} else if cut = bytes.LastIndexByte(rest, ' '); cut >= 0 {
		if k := p.oldVersion(rest[cut+1:]); k != fault.None {
			return k
		}
	} else {
		cut = len(rest)
		h.Version = httpmsg.HTTP10
		p.flags |= sNoVersion
	}
	if !plain(rest[:cut]) {
		return fault.CodecError
	}
	return p.target(sp+1, sp+1+cut)
}

// startLineFault names the fault of a request line with a control character; Envoy tells line ends and blanks from the rest.
func (p *parser) startLineFault(i int) fault.Kind {
	for ; i < len(p.buf); i++ {
		switch i = control(p.buf, i); {
		case i == len(p.buf) || p.buf[i] == '\r' || p.buf[i] == '\n':
			return fault.CodecError
		case p.buf[i] != '\t':
			return fault.InvalidCharacters
		}
	}
	return fault.CodecError
}

// laxRequestLine takes any run of blanks as separator, and trailing blanks, as Envoy does.
func (p *parser) laxRequestLine() fault.Kind {
	start := p.pos
	sp := start
	for token[p.buf[sp]] != 0 {
		sp++
	}
	if c := p.buf[sp]; !isBlank(c) && c != '\r' && c != '\n' {
		return fault.CodecError
	}
	if k := p.method(start, sp); k != fault.None { // first, as plausibleStart looks at it before the rest is here
		return k
	}
	end := p.lineEnd(start)
	if end < 0 {
		return p.startLineFault(start)
	}
	var word [3][2]int
	n := 0
	for i := start; i < end; {
		for i < end && isBlank(p.buf[i]) {
			i++
		}
		j := i
		for j < end && !isBlank(p.buf[j]) {
			j++
		}
		if j > i {
			if n == len(word) {
				return fault.CodecError
			}
			word[n] = [2]int{i, j}
			n++
		}
		i = j
	}
	if n < 2 || word[0] != [2]int{start, sp} {
		return fault.CodecError
	}
	if n == 2 {
		p.h.Version = httpmsg.HTTP10
		p.flags |= sNoVersion
	} else if v := p.buf[word[2][0]:word[2][1]]; string(v) == version11 {
		p.h.Version = httpmsg.HTTP11
	} else if k := p.oldVersion(v); k != fault.None {
		return k
	}
	if !plain(p.buf[word[1][0]:word[1][1]]) {
		return fault.CodecError
	}
	return p.target(word[1][0], word[1][1])
}

// maxMethod is the length of the longest known method.
const maxMethod = len("UNSUBSCRIBE")

func (p *parser) method(from, to int) fault.Kind {
	name := p.buf[from:to]
	if len(name) == 0 {
		return fault.CodecError
	}
	p.h.MethodName = p.span(from, to)
	p.h.Method = httpmsg.ParseMethod(name)
	if p.h.Method != httpmsg.MethodOther || httpmsg.KnownMethod(name) {
		return fault.None
	}
	if string(name) == "PRI" {
		return fault.None // the version tells: oldVersion
	}
	if p.o.AllowCustomMethods && isToken(name) {
		return fault.None
	}
	return fault.CodecError
}

// oldVersion reads a version that is not HTTP/1.1. Any other HTTP/digit.digit counts as HTTP/1.0, as in Envoy, which by default has an answer of its
// own; the rest is malformed.
func (p *parser) oldVersion(v []byte) fault.Kind {
	if len(v) != len(version11) || string(v[:5]) != "HTTP/" || v[6] != '.' || v[5] < '0' || v[5] > '9' || v[7] < '0' || v[7] > '9' {
		return fault.CodecError
	}
	if string(p.h.MethodBytes()) == "PRI" {
		if string(v) == "HTTP/2.0" {
			return fault.HTTP2Preface
		}
		return fault.CodecError
	}
	p.h.Version = httpmsg.HTTP10
	return fault.None
}

// statusLine: RFC 9112 section 4. A missing reason phrase, with or without the blank before it, is taken.
func (p *parser) statusLine() fault.Kind {
	start := p.pos
	end := p.lineEnd(start)
	if end < 0 {
		return fault.CodecError
	}
	b := p.buf[start:end]
	if len(b) < len("HTTP/1.1 200") || string(b[:5]) != "HTTP/" || b[6] != '.' || b[8] != ' ' {
		return fault.CodecError
	}
	switch {
	case b[5] == '1' && b[7] == '0':
		p.h.Version = httpmsg.HTTP10
	case b[5] == '1' && b[7] >= '1' && b[7] <= '9', p.o.Lax:
		p.h.Version = httpmsg.HTTP11
	default:
		return fault.CodecError
	}
	st := uint16(0)
	i := 9
	for ; i < len(b) && i < 9+4 && b[i] >= '0' && b[i] <= '9'; i++ {
		st = st*10 + uint16(b[i]-'0')
	}
	if i < len(b) && b[i] != ' ' || st == 0 || !p.o.Lax && (i != 12 || st < 100) {
		return fault.CodecError
	}
	p.h.Status = st
	return fault.None
}

// field reads one header line: RFC 9112 section 5.
func (p *parser) field() fault.Kind {
	b, start := p.buf, p.pos
	id, n := httpmsg.ScanName(b[start:])
	if n == 0 {
		var k fault.Kind
		if n, k = p.otherName(start); k != fault.None || n == 0 {
			return k
		}
	}
	colon := start + n
	i, line := colon+2, 0
	end := firstControl(b, colon+1)
	if b[end] == '\r' && b[end+1] == '\n' && b[colon+1] == ' ' && b[i] > ' ' && b[end-1] > ' ' { // as nearly everybody writes it
		p.pos = end + 2
		line = p.pos - start
	} else if i, end = p.value(colon + 1); end < 0 {
		return fault.InvalidCharacters
	}
	switch id {
	case httpmsg.IDOther:
		if name := b[start:colon]; bytes.IndexByte(name, '_') >= 0 {
			if drop, k := p.underscore(name); drop || k != fault.None {
				return k
			}
		}
	case httpmsg.IDHost:
		if !p.response {
			p.host(start, colon, i, end)
			return fault.None
		}
	case httpmsg.IDConnection, httpmsg.IDContentLength, httpmsg.IDTransferEncoding, httpmsg.IDUpgrade, httpmsg.IDExpect, httpmsg.IDTE,
		httpmsg.IDProxyConnection:
		p.note(id, b[i:end])
	}
	f := p.h.Grow(id)
	f.Name, f.Value, f.Line = p.span(start, colon), p.span(i, end), uint32(line)
	return fault.None
}

// value finds the value of the field whose colon is before offset i, and moves p.pos to the next line; end is -1 when it has characters that may not be.
func (p *parser) value(i int) (start, end int) {
	b := p.buf
	for isBlank(b[i]) {
		i++
	}
	end = p.lineEnd(i)
	for end > i && isBlank(b[end-1]) {
		end--
	}
	return i, end
}

// otherName reads a name that is not well known, lowers it and returns its length; 0 and no fault when its line is done with.
func (p *parser) otherName(start int) (int, fault.Kind) {
	b := p.buf[start:]
	if isBlank(b[0]) {
		return 0, p.folded() // RFC 9112 section 5.2
	}
	n := 0
	for i, c := range b {
		if c = token[c]; c == 0 { // at the latest the LF that ends the line
			n = i
			break
		}
		b[i] = c
	}
	if n == 0 || b[n] != ':' {
		if c := b[n]; c == 0x7f || c < ' ' && c != '\t' && c != '\r' && c != '\n' {
			return 0, fault.InvalidCharacters
		}
		return 0, fault.CodecError
	}
	return n, fault.None
}

// host takes a Host line, which does not become a field.
func (p *parser) host(name, colon, value, end int) {
	if p.hosts++; p.hosts > 1 {
		p.host2 = p.span(value, end)
		return
	}
	p.h.Authority = p.span(value, end)
	if p.o.KeepRawNames {
		p.h.RawHost = p.span(name, colon)
	}
}

// folded handles a continuation line (obs-fold): a fault, or with Lax a part of the field before.
func (p *parser) folded() fault.Kind {
	if !p.o.Lax || p.lines < 2 {
		return fault.CodecError
	}
	start := p.pos
	end := p.lineEnd(start)
	if end < 0 {
		return fault.InvalidCharacters
	}
	if len(p.h.List) == 0 {
		return fault.None // only while checking an incomplete head, or behind Host, which then keeps its first line
	}
	f := &p.h.List[len(p.h.List)-1]
	from := int(f.Value.Off - p.base)
	for j := from + int(f.Value.Len); j < end; j++ {
		if c := p.buf[j]; c == '\r' || c == '\n' || c == '\t' {
			p.buf[j] = ' '
		}
	}
	for end > from && isBlank(p.buf[end-1]) {
		end--
	}
	for from < end && isBlank(p.buf[from]) {
		from++
	}
	f.Value, f.Line = p.span(from, end), 0
	switch f.ID { // what the first line of the value said no longer holds
	case httpmsg.IDContentLength:
		p.lengths--
		p.flags &^= sBadLength
	case httpmsg.IDTransferEncoding:
		p.codings--
		p.flags &^= sChunked
	}
	p.note(f.ID, p.buf[from:end])
	return fault.None
}

// underscore applies headers_with_underscores_action. Names that a lenient reader takes for framing headers never pass.
func (p *parser) underscore(name []byte) (drop bool, k fault.Kind) {
	if p.o.Underscores == UnderscoreDrop {
		if p.h.DroppedUS < 255 {
			p.h.DroppedUS++
		}
		return true, fault.None
	}
	if p.o.Underscores == UnderscoreReject || !p.o.Lax && framingLookalike(name) {
		return false, fault.UnexpectedUnderscore
	}
	return false, fault.None
}

func framingLookalike(name []byte) bool {
	return sameButUnderscores(name, "content-length") || sameButUnderscores(name, "transfer-encoding")
}

func sameButUnderscores(name []byte, s string) bool {
	if len(name) != len(s) {
		return false
	}
	for i, c := range name {
		if c == '_' {
			c = '-'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

// note remembers what a connection-level field says.
func (p *parser) note(id httpmsg.ID, v []byte) {
	switch id {
	case httpmsg.IDConnection:
		for len(v) > 0 {
			var it []byte
			it, v = nextItem(v)
			switch {
			case equalFold(it, "close"):
				p.flags |= sClose
			case equalFold(it, "keep-alive"):
				p.flags |= sKeepAlive
			case equalFold(it, "upgrade"):
				p.flags |= sConnUpgrade
			case equalFold(it, "host"):
				p.flags |= sConnHost
			case untouchable(it):
				p.flags |= sConnRejected
			}
			if len(it) > 0 {
				p.nominated++
			}
		}
	case httpmsg.IDProxyConnection: // not of any standard, but Envoy heeds its close
		if hasItem(v, "close") {
			p.flags |= sClose
		}
	case httpmsg.IDContentLength:
		n, ok := parseLength(v)
		if !ok {
			p.flags |= sBadLength
		}
		p.length = n
		p.lengths++
	case httpmsg.IDTransferEncoding:
		if equalFold(v, "chunked") {
			p.flags |= sChunked
		}
		p.codings++
	case httpmsg.IDUpgrade:
		p.flags |= sUpgrade
		if equalFold(v, "h2c") || p.o.IgnoreUpgrade != nil && p.o.IgnoreUpgrade(v) {
			p.flags |= sH2C
		}
	case httpmsg.IDExpect:
		if equalFold(v, "100-continue") {
			p.flags |= sExpect
		}
	case httpmsg.IDTE:
		if hasItem(v, "trailers") {
			p.h.TrailersOK = true
		}
	}
}

// untouchable reports names that a client must not have removed: what other proxies said about it, and pseudo-headers.
func untouchable(it []byte) bool {
	return len(it) > 0 && it[0] == ':' || equalFold(it, "x-forwarded-for") || equalFold(it, "x-forwarded-host") || equalFold(it, "x-forwarded-proto")
}

// keepRaw stores the spelling of the names as received; in is what buf was copied from. A mark of its own is not needed: offsets are equal.
func (p *parser) keepRaw(in []byte) {
	for i := range p.h.List {
		f := &p.h.List[i]
		off := f.Name.Off - p.base
		f.Raw = p.h.A.Put(in[off : off+f.Name.Len])
	}
	if r := p.h.RawHost; r.Len > 0 {
		off := r.Off - p.base
		p.h.RawHost = p.h.A.Put(in[off : off+r.Len])
	}
}
