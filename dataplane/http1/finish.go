// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

// finish evaluates what the lines said together, fills the rest of the head and arms the body decoder.
func (d *Decoder) finish(p *parser) fault.Kind {
	if p.response {
		return d.finishResponse(p)
	}
	h := p.h
	h.HostCount = uint8(min(p.hosts, 255))
	if k := p.requestFraming(); k != fault.None {
		return k
	}
	if p.flags&sConnRejected != 0 || p.nominated > maxNominated {
		return fault.ConnectionRejected
	}
	if k := p.authority(); k != fault.None {
		return k
	}
	h.KeepAlive = p.keepAlive()
	h.ExpectContinue = p.flags&sExpect != 0 && h.Version == httpmsg.HTTP11
	// RFC 9110 section 7.8: Upgrade in an HTTP/1.0 request is ignored; h2c is always removed, as Envoy does.
	h.Upgrade = p.flags&(sUpgrade|sConnUpgrade|sH2C) == sUpgrade|sConnUpgrade && h.Version == httpmsg.HTTP11
	if h.Version != httpmsg.HTTP11 && !p.o.AcceptHTTP10 {
		return fault.LowVersion
	}
	d.armBody(h, phHead)
	return fault.None
}

func (p *parser) keepAlive() bool {
	if p.flags&sClose != 0 || p.flags&sNoVersion != 0 {
		return false
	}
	return p.h.Version == httpmsg.HTTP11 || p.flags&sKeepAlive != 0
}

// requestFraming decides how the body of a request is delimited: RFC 9112 section 6.3.
func (p *parser) requestFraming() fault.Kind {
	h := p.h
	if h.Method == httpmsg.MethodConnect {
		switch { // RFC 9110 section 9.3.6: no content
		case p.codings > 0:
			return fault.InvalidTransferCoding
		case p.length > 0 || p.lengths > 1 || p.flags&sBadLength != 0:
			return fault.BodyDisallowed
		}
		h.Remove(httpmsg.IDContentLength.Key())
		return fault.None
	}
	if k := p.framing(); k != fault.None {
		return k
	}
	switch {
	case p.codings > 0:
		if h.Version != httpmsg.HTTP11 && !p.o.Lax {
			return fault.CodecError // RFC 9112 section 6.1: faulty framing
		}
		h.Body = httpmsg.BodyChunked
	case p.length > 0:
		h.Body, h.Length = httpmsg.BodyLength, p.length
	}
	return fault.None
}

// framing checks the framing fields by themselves; both sides.
func (p *parser) framing() fault.Kind {
	if p.codings > 0 && p.lengths > 0 {
		if !p.o.AllowChunkedLength || p.codings > 1 || p.flags&sChunked == 0 {
			return fault.LengthAndChunked
		}
		p.h.Remove(httpmsg.IDContentLength.Key())
		p.lengths, p.length, p.flags = 0, 0, p.flags&^sBadLength
	}
	if p.codings > 1 || p.codings == 1 && p.flags&sChunked == 0 {
		return fault.InvalidTransferCoding
	}
	if p.lengths > 1 || p.flags&sBadLength != 0 {
		return fault.CodecError
	}
	return fault.None
}

// authority settles Host against the authority of the target, which wins (RFC 9112 section 3.2.2), and checks it.
func (p *parser) authority() fault.Kind {
	h := p.h
	switch {
	case p.o.Lax && p.targetHost.Len > 0: // what Host says does not matter
	case p.hosts > 2, p.hosts == 2 && !p.o.Lax:
		return fault.InvalidAuthority
	case p.hosts == 2: // Envoy joins repeated headers
		first, second := h.Host(), h.A.Bytes(p.host2)
		b := append(h.A.Tail(), first...)
		b = append(b, ',')
		h.Authority = h.A.Take(append(b, second...))
	}
	if p.hosts > 0 && !(p.o.Lax && p.targetHost.Len > 0) && !httpmsg.ValidAuthority(h.Host(), p.o.Lax) {
		return fault.InvalidAuthority
	}
	if p.flags&sConnHost != 0 { // a connection-level field is not for us to route by; Envoy drops it as well
		h.HostCount, h.Authority = 0, httpmsg.Span{}
	}
	if p.targetHost.Len > 0 {
		h.HostCount, h.Authority = 1, p.targetHost
	}
	if p.rootTarget {
		h.Target = h.A.PutString("/")
	}
	if h.HostCount == 0 && h.Version != httpmsg.HTTP11 && p.o.DefaultHost != "" {
		h.Authority = h.A.PutString(p.o.DefaultHost)
		h.HostCount = 1
	}
	return fault.None
}

// target reads a request target of visible characters: RFC 9112 section 3.2. The kinds of fault are Envoy's.
func (p *parser) target(from, to int) fault.Kind {
	t := p.buf[from:to]
	h := p.h
	switch {
	case len(t) == 0:
		return fault.CodecError
	case h.Method == httpmsg.MethodOther && string(h.MethodBytes()) == "PRI":
		return fault.CodecError // half an HTTP/2 preface
	case h.Method == httpmsg.MethodConnect:
		if !httpmsg.ValidHostPort(t) {
			return fault.InvalidURL
		}
		p.targetHost = p.span(from, to)
	case t[0] == '/':
		h.Target = p.span(from, to)
	case t[0] == '*':
		if h.Method != httpmsg.MethodOptions {
			return fault.InvalidURL
		}
		h.Target = p.span(from, to)
	default:
		return p.absolute(from, to)
	}
	return fault.None
}

// absolute reads the absolute form: scheme "://" [userinfo "@"] authority [path] [?query]. As in Envoy the userinfo is dropped.
func (p *parser) absolute(from, to int) fault.Kind {
	t := p.buf[from:to]
	skip := 0
	switch {
	case len(t) > 7 && equalFold(t[:7], "http://"):
		skip = 7
	case len(t) > 8 && equalFold(t[:8], "https://"):
		skip = 8
	default:
		if i := bytes.Index(t, []byte("://")); i > 0 && isScheme(t[:i]) {
			return fault.InvalidScheme
		}
		return fault.CodecError
	}
	end := skip
	for end < len(t) && t[end] != '/' && t[end] != '?' && t[end] != '#' {
		end++
	}
	host := skip
	if i := bytes.IndexByte(t[skip:end], '@'); i >= 0 {
		host = skip + i + 1
		if !httpmsg.ValidUserinfo(t[skip : host-1]) {
			return fault.CodecError
		}
	}
	if end < len(t) && t[end] == '#' {
		return fault.CodecError
	}
	if !httpmsg.ValidAuthority(t[host:end], false) || t[end-1] == ':' {
		return fault.InvalidURL
	}
	if !p.o.AllowAbsoluteURL {
		p.h.Target = p.span(from, to)
		return fault.None
	}
	p.targetHost = p.span(from+host, from+end)
	p.h.Target = p.span(from+end, to)
	if end == len(t) {
		p.rootTarget = true
	}
	return fault.None
}

// isScheme: RFC 3986 section 3.1.
func isScheme(b []byte) bool {
	for i, c := range b {
		alpha := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !alpha && (i == 0 || (c < '0' || c > '9') && c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return true
}

// finishResponse: RFC 9112 section 6.3, from the client's view.
func (d *Decoder) finishResponse(p *parser) fault.Kind {
	h := p.h
	h.KeepAlive = p.keepAlive()
	connected := d.flags&dConnect != 0 && h.Status >= 200 && h.Status < 300
	if connected || h.Status == 101 && d.flags&dSwitch != 0 {
		h.Upgrade = h.Status == 101 && p.flags&(sUpgrade|sConnUpgrade) == sUpgrade|sConnUpgrade
		// RFC 9110 section 9.3.6: framing fields in such an answer mean nothing.
		h.Remove(httpmsg.IDContentLength.Key())
		h.Remove(httpmsg.IDTransferEncoding.Key())
		d.arm(phTunnel)
		return fault.None
	}
	if k := p.framing(); k != fault.None {
		return k
	}
	if p.codings > 0 && h.Version != httpmsg.HTTP11 && !p.o.Lax {
		return fault.CodecError
	}
	if h.Status < 200 || h.Status == 204 {
		if p.codings > 0 || p.length > 0 {
			return fault.CodecError // RFC 9110 section 8.6, RFC 9112 section 6.1
		}
		h.Remove(httpmsg.IDContentLength.Key())
		switch {
		case h.Status == 101:
			if !p.o.Lax {
				return fault.CodecError // nobody asked to switch
			}
			h.KeepAlive = false
			d.arm(phIdle)
		case h.Status < 200:
			d.arm(phHead)
		default:
			d.arm(phIdle)
		}
		return fault.None
	}
	switch {
	case d.flags&dHead != 0 || h.Status == 304:
	case p.codings > 0:
		h.Body = httpmsg.BodyChunked
	case p.length > 0:
		h.Body, h.Length = httpmsg.BodyLength, p.length
	case p.lengths == 0:
		h.Body, h.KeepAlive = httpmsg.BodyUntilClose, false
	}
	d.armBody(h, phIdle)
	return fault.None
}

// armBody prepares for the body of h, or for what comes without one.
func (d *Decoder) armBody(h *httpmsg.Head, none phase) {
	switch h.Body {
	case httpmsg.BodyLength:
		d.arm(phLength)
		d.left = h.Length
	case httpmsg.BodyChunked:
		d.arm(phSize)
	case httpmsg.BodyUntilClose:
		d.arm(phClose)
	default:
		d.arm(none)
	}
}
