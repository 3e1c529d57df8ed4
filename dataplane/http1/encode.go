// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"

	"sidecar/dataplane/httpmsg"
)

// AppendRequestHead appends the head of a request: request line, host, the live fields in order, and the framing that h.Body asks for. It writes
// HTTP/1.1 whatever h.Version is. Connection-level fields are written as they are; StripHopByHop removes them before. A content-length field is
// kept only with BodyNone; otherwise content-length or transfer-encoding are written from h.Body. A request without body and content-length gets
// content-length: 0, unless its method does not go with a body.
func AppendRequestHead(b []byte, h *httpmsg.Head, o *Options) []byte {
	arena := h.A.Tail()
	var run httpmsg.Span
	if m, t := h.MethodName, h.Target; m.Off+m.Len+1 == t.Off && t.Len > 0 && !o.SendFullyQualifiedURL && follows(arena, m, " ") &&
		follows(arena, t, endOfRequestLine) {
		run = httpmsg.Span{Off: m.Off, Len: t.Off - m.Off + t.Len + uint32(len(endOfRequestLine))}
	} else {
		b = appendRequestLine(b, h, o)
	}
	raw, proper := spelling(h, o)
	at := h.Authority
	at.Off, at.Len = at.Off-uint32(len(hostColon)), at.Len+uint32(len(hostColon))
	if h.Authority.Off >= uint32(len(hostColon)) && !raw && !proper && string(arena[at.Off:][:len(hostColon)]) == hostColon && follows(arena, at, crlf) {
		b, run = extend(b, arena, run, httpmsg.Span{Off: at.Off, Len: at.Len + uint32(len(crlf))})
	} else {
		b = append(b, h.A.Bytes(run)...)
		run = httpmsg.Span{}
		switch {
		case raw && h.RawHost.Len > 0:
			b = append(append(b, h.A.Bytes(h.RawHost)...), ": "...)
		case proper:
			b = append(b, "Host: "...)
		default:
			b = append(b, hostColon...)
		}
		b = append(append(b, h.Host()...), crlf...)
	}
	b = appendFields(b, h, o, true, run)
	if h.Body == httpmsg.BodyNone && !h.Upgrade && wantsLength(h.Method) && h.Find(httpmsg.IDContentLength, 0) < 0 {
		b = appendWellKnown(b, "content-length", httpmsg.IDContentLength, h, o)
		b = append(b, "0\r\n"...)
	}
	return append(b, crlf...)
}

const (
	crlf             = "\r\n"
	hostColon        = "host: "
	endOfRequestLine = " " + version11 + crlf
)

// follows reports whether s is what comes behind p in the arena.
func follows(arena []byte, p httpmsg.Span, s string) bool {
	end := int(p.Off + p.Len)
	return end+len(s) <= len(arena) && string(arena[end:end+len(s)]) == s
}

// extend adds next, which lies in the arena as it is to be written, to the run that waits to be copied.
func extend(b, arena []byte, run, next httpmsg.Span) ([]byte, httpmsg.Span) {
	if run.Off+run.Len == next.Off {
		run.Len += next.Len
		return b, run
	}
	return append(b, arena[run.Off:run.Off+run.Len]...), next
}

func appendRequestLine(b []byte, h *httpmsg.Head, o *Options) []byte {
	b = append(b, h.MethodBytes()...)
	b = append(b, ' ')
	switch {
	case h.Method == httpmsg.MethodConnect && h.Target.Len == 0:
		b = append(b, h.Host()...)
	case o.SendFullyQualifiedURL:
		if h.Scheme.Len > 0 {
			b = append(b, h.SchemeBytes()...)
		} else {
			b = append(b, "http"...)
		}
		b = append(b, "://"...)
		b = append(b, h.Host()...)
		b = append(b, h.Path()...)
	default:
		b = append(b, h.Path()...)
	}
	return append(b, endOfRequestLine...)
}

// spelling says whether names are written as received where that is known (raw), and whether others are in proper case. A message that brings its
// spelling along decides it; only one that does not is written in the codec's own.
func spelling(h *httpmsg.Head, o *Options) (raw, proper bool) {
	if h.Spelling != httpmsg.SpellEncoder {
		return true, h.Spelling == httpmsg.SpellReceivedProper
	}
	return false, o.ProperCase && !o.KeepRawNames
}

// wantsLength: RFC 9110 section 8.6 wants content-length: 0 of a method that could have a body; these are the ones Envoy excepts.
func wantsLength(m httpmsg.Method) bool {
	switch m {
	case httpmsg.MethodGet, httpmsg.MethodHead, httpmsg.MethodDelete, httpmsg.MethodTrace, httpmsg.MethodConnect:
		return false
	}
	return true
}

// AppendResponseHead appends the head of a response in the version of the client: status line with Envoy's own reason phrase, the live fields in
// order, and the framing that h.Body asks for. An HTTP/1.0 client gets no transfer-encoding: then, as with BodyUntilClose, the caller ends the
// body by closing, and sets connection: close. With BodyNone a content-length field is written as it is (HEAD, 304); a response that has an empty body
// but could have one wants BodyLength with Length 0.
func AppendResponseHead(b []byte, h *httpmsg.Head, version httpmsg.Version, o *Options) []byte {
	if version == httpmsg.HTTP11 && h.Status == 200 {
		b = append(b, "HTTP/1.1 200 OK\r\n"...)
	} else {
		b = appendStatusLine(b, h.Status, version)
	}
	b = appendFields(b, h, o, version != httpmsg.HTTP10, httpmsg.Span{})
	return append(b, crlf...)
}

func appendStatusLine(b []byte, status uint16, version httpmsg.Version) []byte {
	if version == httpmsg.HTTP10 {
		b = append(b, "HTTP/1.0 "...)
	} else {
		b = append(b, "HTTP/1.1 "...)
	}
	b = append(appendInt(b, int64(status)), ' ')
	return append(append(b, Reason(status)...), crlf...)
}

// appendFields writes the run that waits, the fields and the framing. Neighbours that lie in the arena as "name: value\r\n", as a head that came in
// and what the proxy added to it do for the most part, are copied in one piece.
func appendFields(b []byte, h *httpmsg.Head, o *Options, chunkedOK bool, run httpmsg.Span) []byte {
	arena := h.A.Tail()
	raw, proper := spelling(h, o)
	length := false
	for i := 0; i < len(h.List); i++ {
		if !raw && !proper {
			if b, i, run = appendLines(b, arena, h.List, i, run); i == len(h.List) {
				break
			}
		}
		f := &h.List[i]
		if f.Dead || f.ID == httpmsg.IDTransferEncoding {
			continue
		}
		if f.ID == httpmsg.IDContentLength && h.Body != httpmsg.BodyNone {
			if length || h.Body != httpmsg.BodyLength || !canonicalLength(h.Value(i), h.Length) {
				continue
			}
			length = true // it says what h.Body says: it may keep its place
		}
		b = append(b, arena[run.Off:run.Off+run.Len]...)
		if run = (httpmsg.Span{}); !raw && !proper && f.WholeLine() {
			run = httpmsg.Span{Off: f.Name.Off, Len: f.Line}
			continue
		}
		b = appendName(b, h.A.Bytes(f.Name), f.ID, h, raw, proper)
		b = append(b, ": "...)
		b = append(b, h.A.Bytes(f.Value)...)
		b = append(b, crlf...)
	}
	b = append(b, arena[run.Off:run.Off+run.Len]...)
	switch {
	case h.Body == httpmsg.BodyLength && !length:
		b = appendWellKnown(b, "content-length", httpmsg.IDContentLength, h, o)
		b = appendInt(b, h.Length)
		b = append(b, "\r\n"...)
	case h.Body == httpmsg.BodyChunked && chunkedOK:
		b = appendWellKnown(b, "transfer-encoding", httpmsg.IDTransferEncoding, h, o)
		b = append(b, "chunked\r\n"...)
	}
	return b
}

// appendLines appends the run that waits and the fields from index i on, up to one that does not lie in the arena as a line or is for framing. It returns
// the index of that one, and the run that waits now.
func appendLines(b, arena []byte, list []httpmsg.Field, i int, run httpmsg.Span) ([]byte, int, httpmsg.Span) {
	at, end := run.Off, run.Off+run.Len
	for ; i < len(list); i++ {
		f := &list[i]
		if f.Dead {
			continue
		}
		if f.ID == httpmsg.IDTransferEncoding || f.ID == httpmsg.IDContentLength || !f.WholeLine() {
			break
		}
		if f.Name.Off != end {
			b = append(b, arena[at:end]...)
			at = f.Name.Off
		}
		end = f.Name.Off + f.Line
	}
	return b, i, httpmsg.Span{Off: at, Len: end - at}
}

func canonicalLength(b []byte, n int64) bool {
	v, ok := parseLength(b)
	return ok && v == n && (b[0] != '0' || len(b) == 1)
}

// appendWellKnown appends the name of a framing field, with colon and blank.
func appendWellKnown(b []byte, name string, id httpmsg.ID, h *httpmsg.Head, o *Options) []byte {
	raw, proper := spelling(h, o)
	return append(appendName(b, []byte(name), id, h, raw, proper), ": "...)
}

// appendName appends a name as spelled. A field that the proxy wrote anew has the spelling of the first one of that name received, as in Envoy.
func appendName(b, name []byte, id httpmsg.ID, h *httpmsg.Head, raw, proper bool) []byte {
	if raw {
		for i := range h.List {
			if f := &h.List[i]; f.Raw.Len > 0 && f.ID == id && (id != httpmsg.IDOther || bytes.Equal(h.Name(i), name)) {
				return append(b, h.A.Bytes(f.Raw)...)
			}
		}
	}
	n := len(b)
	b = append(b, name...)
	if proper {
		properCase(b[n:])
	}
	return b
}

// properCase is Envoy's proper_case_words: the first letter and every letter behind something that is neither letter nor digit.
func properCase(b []byte) {
	up := true
	for i, c := range b {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if up && 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		up = !letter && (c < '0' || c > '9')
	}
}

const hexDigits = "0123456789abcdef"

// AppendChunkHead appends the size line of a chunk of n > 0 bytes; the caller sends the bytes and CRLF behind it.
func AppendChunkHead(b []byte, n int) []byte {
	shift := 0
	for n>>shift > 15 {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[n>>shift&15])
	}
	return append(b, "\r\n"...)
}

// AppendChunk appends data as one chunk; nothing if data is empty, as an empty chunk would end the body.
func AppendChunk(b []byte, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	b = AppendChunkHead(b, len(data))
	b = append(b, data...)
	return append(b, "\r\n"...)
}

// AppendLastChunk appends the last chunk with the trailers; tr may be nil.
func AppendLastChunk(b []byte, tr *httpmsg.Fields) []byte {
	b = append(b, "0\r\n"...)
	if tr != nil {
		for i := range tr.List {
			f := &tr.List[i]
			if f.Dead || forbiddenTrailer(f.ID) {
				continue
			}
			if f.Raw.Len > 0 {
				b = append(b, tr.A.Bytes(f.Raw)...)
			} else {
				b = append(b, tr.Name(i)...)
			}
			b = append(b, ": "...)
			b = append(b, tr.Value(i)...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

var (
	keyConnection = httpmsg.IDConnection.Key()
	keyTE         = httpmsg.IDTE.Key()
)

// hopByHop are the fields that StripHopByHop starts from.
var hopByHop = httpmsg.IDSetOf(httpmsg.IDConnection, httpmsg.IDKeepAlive, httpmsg.IDProxyConnection, httpmsg.IDTransferEncoding, httpmsg.IDUpgrade,
	httpmsg.IDTE)

// StripHopByHop removes the fields that concern one hop only (RFC 9110 section 7.6.1), as Envoy does. Of a request: connection, keep-alive,
// proxy-connection, transfer-encoding, fields that connection names, upgrade, and te except for "trailers". Of a response the same, but not the fields
// that connection names, and te stays. A message with h.Upgrade keeps upgrade, and connection if that says so.
func StripHopByHop(h *httpmsg.Head, response bool) {
	if h.NeverAny(hopByHop) && !h.Upgrade {
		return
	}
	for i := range h.List {
		f := &h.List[i]
		if f.Dead {
			continue
		}
		switch f.ID {
		case httpmsg.IDConnection:
			if !response {
				stripNominated(h, h.Value(i))
			}
			f.Dead = !h.Upgrade || !hasItem(h.Value(i), "upgrade") || hasItem(h.Value(i), "close")
		case httpmsg.IDKeepAlive, httpmsg.IDProxyConnection, httpmsg.IDTransferEncoding:
			f.Dead = true
		case httpmsg.IDUpgrade:
			f.Dead = !h.Upgrade
		}
	}
	if !response && h.Find(httpmsg.IDTE, 0) >= 0 {
		if h.TrailersOK {
			h.SetString(keyTE, "trailers")
		} else {
			h.Remove(keyTE)
		}
	}
	if h.Upgrade && h.Find(httpmsg.IDConnection, 0) < 0 {
		h.AddString(keyConnection, "upgrade")
	}
}

// stripNominated removes the fields that a connection field names. Framing and host were settled by the decoder, and naming them changes nothing;
// upgrade and te have rules of their own.
func stripNominated(h *httpmsg.Head, list []byte) {
	for len(list) > 0 {
		var it []byte
		it, list = nextItem(list)
		if len(it) == 0 {
			continue
		}
		for i := range h.List {
			f := &h.List[i]
			switch f.ID {
			case httpmsg.IDConnection, httpmsg.IDContentLength, httpmsg.IDTransferEncoding, httpmsg.IDUpgrade, httpmsg.IDTE:
				continue
			}
			if !f.Dead && foldedEqual(it, h.Name(i)) {
				f.Dead = true
			}
		}
	}
}

// foldedEqual compares it, in any case, with a lower-case name.
func foldedEqual(it, name []byte) bool {
	if len(it) != len(name) {
		return false
	}
	for i, c := range it {
		if token[c] != name[i] {
			return false
		}
	}
	return true
}
