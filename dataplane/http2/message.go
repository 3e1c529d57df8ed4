// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"sidecar/dataplane/fault"
	"sidecar/dataplane/http1"
	"sidecar/dataplane/http2/hpack"
	"sidecar/dataplane/httpmsg"
)

// message is a header block on its way into a Head or into trailers. With neither it is only decoded.
type message struct {
	h  *httpmsg.Head
	tr *httpmsg.Fields
	s  *Stream

	mark, list int // lengths of arena and list before
	length     int64
	protocol   httpmsg.Span
	hosts      int
	lengths    int
	cookies    int
	dropped    int // fields that headers_with_underscores_action: DROP_HEADER took out
	cookie     int // index of the first
	seen       uint16
	end        bool
	response   bool
	trailers   bool
	lax        bool
	ordinary   bool // an ordinary field was seen: no pseudo-header may follow
}

// What Mark says of a table entry.
const (
	markValid uint8 = 1 + iota
	markUnderscore
)

func (m *message) ignores() bool { return m.s == nil }

// fields is where the fields go, nil if they are only checked.
func (m *message) fields() *httpmsg.Fields {
	if m.trailers {
		return m.tr
	}
	return &m.h.Fields
}

func (m *message) start() fault.Kind {
	if m.s == nil {
		return fault.None
	}
	if !m.trailers {
		if m.h == nil {
			return fault.H2Protocol // the owner did not want it
		}
		m.h.Reset(m.h.A)
	}
	if f := m.fields(); f != nil {
		m.mark, m.list = f.A.Len(), len(f.List)
	}
	return fault.None
}

// undo takes out again what the block put in.
func (m *message) undo() {
	if m.s == nil || !m.trailers && m.h == nil {
		return
	}
	if f := m.fields(); f != nil {
		f.A.Truncate(m.mark)
		f.List = f.List[:m.list]
	}
	if !m.trailers {
		m.h.Reset(m.h.A)
	}
}

// pseudo takes a pseudo-header (RFC 9113 section 8.3).
func (m *message) pseudo(f *hpack.Field, c *Conn) fault.Kind {
	bit := uint16(1) << f.Pseudo
	if m.trailers || m.ordinary || m.seen&bit != 0 || m.response != (f.Pseudo == hpack.PseudoStatus) {
		return fault.H2InvalidField
	}
	m.seen |= bit
	h := m.h
	switch f.Pseudo {
	case hpack.PseudoStatus:
		v := f.Value
		if len(v) != 3 {
			return fault.H2InvalidField
		}
		for _, d := range v {
			if d < '0' || d > '9' {
				return fault.H2InvalidField
			}
			h.Status = h.Status*10 + uint16(d-'0')
		}
	case hpack.PseudoMethod:
		if h.Method = httpmsg.ParseMethod(f.Value); h.Method == httpmsg.MethodOther && !validMethod(f.Value) {
			return fault.H2InvalidField
		}
		h.MethodName = h.A.Put(f.Value)
	case hpack.PseudoScheme:
		if string(f.Value) != "https" && string(f.Value) != "http" && !validScheme(f.Value) {
			return fault.H2InvalidField
		}
		h.Scheme = h.A.Put(f.Value)
	case hpack.PseudoAuthority:
		if f.Mark != markValid {
			if !httpmsg.ValidAuthority(f.Value, false) {
				return fault.H2InvalidField
			}
			c.dec.SetMark(markValid)
		}
		h.Authority, h.HostCount = h.A.Put(f.Value), 1
	case hpack.PseudoPath:
		if f.Mark != markValid {
			if len(f.Value) == 0 || !validPath(f.Value) {
				return fault.H2InvalidField
			}
			c.dec.SetMark(markValid)
		}
		h.Target = h.A.Put(f.Value)
	case hpack.PseudoProtocol:
		if !c.o.AllowConnect || !validMethod(f.Value) {
			return fault.H2InvalidField
		}
		m.protocol = h.A.Put(f.Value)
	default:
		return fault.H2InvalidField
	}
	return fault.None
}

// field takes an ordinary field (RFC 9113 section 8.2).
func (m *message) field(f *hpack.Field, c *Conn) fault.Kind {
	m.ordinary = true
	if f.Mark == 0 {
		f.Mark = markValid
		if f.ID == httpmsg.IDOther {
			ok, underscore := validName(f.Name)
			if !ok {
				return fault.H2InvalidField
			}
			if underscore {
				f.Mark = markUnderscore
			}
		}
		if c.o.Lax {
			f.Value = trimBlanks(f.Value)
		}
		if !validValue(f.Value) {
			return fault.H2InvalidField
		}
		if !c.o.Lax { // a mark says that the value is good as it is
			c.dec.SetMark(f.Mark)
		}
	}
	if f.Mark == markUnderscore {
		if drop, k := m.underscore(f, c.o); drop || k != fault.None {
			return k
		}
	}
	if f.ID != httpmsg.IDOther {
		if keep, k := m.known(f); !keep || k != fault.None {
			return k
		}
	}
	if dst := m.fields(); dst != nil {
		put(dst, f)
	}
	return fault.None
}

// put appends a field. In the arena it lies as HTTP/1 writes it, which makes that a copy (http1.AppendRequestHead).
func put(dst *httpmsg.Fields, f *hpack.Field) {
	b := dst.A.Tail()
	name := len(b)
	b = append(append(b, f.Name...), ": "...)
	value := len(b)
	line := dst.A.Take(append(append(b, f.Value...), "\r\n"...))
	l := dst.Grow(f.ID)
	l.Name = httpmsg.Span{Off: uint32(name), Len: uint32(len(f.Name))}
	l.Value = httpmsg.Span{Off: uint32(value), Len: uint32(len(f.Value))}
	l.Line, l.Sensitive = line.Len, f.Sensitive
}

// underscore applies headers_with_underscores_action. Names that a lenient reader takes for framing headers never pass.
func (m *message) underscore(f *hpack.Field, o *Options) (drop bool, k fault.Kind) {
	switch {
	case o.Underscores == http1.UnderscoreDrop:
		m.dropped++
		return true, fault.None
	case m.trailers && o.Underscores == http1.UnderscoreAllow:
		return framingLookalike(f.Name), fault.None
	case o.Underscores == http1.UnderscoreReject || !o.Lax && framingLookalike(f.Name):
		return false, fault.H2Underscore
	}
	return false, fault.None
}

// known looks at fields that mean something to the codec; keep says that it stays a field.
func (m *message) known(f *hpack.Field) (keep bool, k fault.Kind) {
	switch f.ID {
	case httpmsg.IDConnection, httpmsg.IDKeepAlive, httpmsg.IDProxyConnection, httpmsg.IDTransferEncoding, httpmsg.IDUpgrade:
		return false, fault.H2InvalidField // section 8.2.2
	case httpmsg.IDTE:
		if m.response {
			return true, fault.None
		}
		if !equalFold(f.Value, "trailers") {
			return false, fault.H2InvalidField
		}
		if m.h != nil {
			m.h.TrailersOK = true
		}
	case httpmsg.IDContentLength:
		if m.trailers {
			return false, fault.None
		}
		n, ok := parseLength(f.Value)
		if m.lengths++; !ok || m.lengths > 1 {
			return false, fault.H2InvalidField
		}
		m.length = n
	case httpmsg.IDHost:
		if m.response || m.trailers {
			return !m.trailers, fault.None
		}
		if m.hosts++; m.hosts > 1 {
			return false, fault.H2InvalidField
		}
		if m.seen&(1<<hpack.PseudoAuthority) == 0 {
			if !httpmsg.ValidAuthority(f.Value, false) {
				return false, fault.H2InvalidField
			}
			m.h.Authority, m.h.HostCount = m.h.A.Put(f.Value), 1
		}
		return false, fault.None
	case httpmsg.IDCookie:
		if dst := m.fields(); dst != nil {
			if m.cookies++; m.cookies == 1 {
				m.cookie = len(dst.List)
			}
		}
	case httpmsg.IDExpect:
		if !m.response && !m.trailers && equalFold(f.Value, "100-continue") {
			m.h.ExpectContinue = true
		}
	}
	return true, fault.None
}

// finish evaluates what the fields said together.
func (m *message) finish() fault.Kind {
	switch {
	case m.s == nil:
		return fault.None
	case m.trailers:
		if m.end && !(m.s.fl&sUnframed != 0 || m.s.left == 0) {
			return fault.H2Content
		}
		return fault.None
	}
	m.h.Version, m.h.KeepAlive = httpmsg.HTTP2, true
	if m.response {
		return m.finishResponse()
	}
	m.joinCookies()
	return m.finishRequest()
}

// finishRequest: RFC 9113 sections 8.3.1 and 8.5, RFC 8441 section 4.
func (m *message) finishRequest() fault.Kind {
	h, s := m.h, m.s
	has := func(p hpack.Pseudo) bool { return m.seen&(1<<p) != 0 }
	connect, extended := h.Method == httpmsg.MethodConnect, has(hpack.PseudoProtocol)
	switch {
	case !has(hpack.PseudoMethod), extended && !connect, h.HostCount == 0:
		return fault.H2Messaging
	case connect && !extended:
		if has(hpack.PseudoScheme) || has(hpack.PseudoPath) || !has(hpack.PseudoAuthority) || !m.lax && !httpmsg.ValidHostPort(h.Host()) {
			return fault.H2Messaging
		}
	case !has(hpack.PseudoScheme), !has(hpack.PseudoPath), !m.pathForm():
		return fault.H2Messaging
	}
	if connect {
		s.fl |= sTunnel | sUnframed
		h.Remove(keyContentLength)
		if extended {
			s.fl |= sUpgrade
			h.SetMethod("GET")
			h.Upgrade = true
			h.AddString(keyConnection, "upgrade")
			h.AddSpan(keyUpgrade, m.protocol)
		}
		return fault.None
	}
	return m.framing()
}

// pathForm: a path starts with a slash, or is the asterisk of OPTIONS.
func (m *message) pathForm() bool {
	p := m.h.Path()
	return len(p) > 0 && (p[0] == '/' || len(p) == 1 && p[0] == '*' && m.h.Method == httpmsg.MethodOptions)
}

// framing settles how long the content is (RFC 9113 section 8.1.1).
func (m *message) framing() fault.Kind {
	h, s := m.h, m.s
	switch {
	case m.lengths == 0:
		s.fl |= sUnframed
	case m.end && m.length > 0 && !m.response:
		return fault.H2Messaging
	default:
		s.left = m.length
	}
	switch {
	case m.end:
		h.Body = httpmsg.BodyNone
	case m.lengths > 0:
		h.Body, h.Length = httpmsg.BodyLength, m.length
	default:
		h.Body = httpmsg.BodyChunked
	}
	return fault.None
}

// finishResponse: RFC 9113 sections 8.1 and 8.3.2.
func (m *message) finishResponse() fault.Kind {
	h, s := m.h, m.s
	switch {
	case h.Status < 100:
		return fault.H2Messaging // none, too
	case h.Status < 200:
		if h.Status == 101 || m.end || m.lengths > 0 && m.length > 0 {
			return fault.H2Messaging
		}
		h.Remove(keyContentLength)
		return fault.None
	}
	s.fl |= sHeadIn
	if s.fl&sTunnel != 0 && h.Status/100 == 2 {
		s.fl |= sUnframed
		h.Remove(keyContentLength)
		if s.fl&sUpgrade != 0 {
			h.Status, h.Upgrade = 101, true
			h.AddString(keyConnection, "upgrade")
			if v := s.request.Get(httpmsg.IDUpgrade); v != nil {
				h.Add(keyUpgrade, v)
			}
		}
		return fault.None
	}
	if k := m.framing(); k != fault.None {
		return k
	}
	if h.Status == 204 && m.lengths > 0 && m.length > 0 {
		return fault.H2Messaging // RFC 9110 section 8.6
	}
	if s.fl&sBodyless != 0 || h.Status == 204 || h.Status == 304 {
		s.fl &^= sUnframed
		s.left = 0
		return fault.None
	}
	if m.end && s.fl&sUnframed == 0 && s.left > 0 {
		return fault.H2Messaging
	}
	return fault.None
}

// joinCookies makes one field of the crumbs (RFC 9113 section 8.2.3).
func (m *message) joinCookies() {
	if m.cookies < 2 {
		return
	}
	f := &m.h.Fields
	b := f.A.Tail()
	sensitive := false
	for i := m.cookie; i < len(f.List); i++ {
		l := &f.List[i]
		if l.ID != httpmsg.IDCookie {
			continue
		}
		if i > m.cookie {
			b = append(b, "; "...)
			l.Dead = true
		}
		sensitive = sensitive || l.Sensitive
		b = append(b, f.Value(i)...)
	}
	first := &f.List[m.cookie]
	first.Value, first.Sensitive = f.A.Take(b), sensitive
}
