// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"math"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

// maxChunkLine bounds a chunk-size line with its extensions, which nobody uses: RFC 9112 section 7.1.1 asks for a limit.
const maxChunkLine = 4096

// extState is the place in a chunk extension (RFC 9112 section 7.1.1).
type extState uint8

const (
	exPad    extState = iota // blanks before the first ';'
	exName0                  // before a name
	exName                   // in a name
	exEquals                 // blanks after a name
	exValue0                 // before a value
	exValue                  // in a token value
	exQuoted                 // in a quoted string
	exEscape                 // after a backslash in a quoted string
	exClosed                 // behind a quoted string
	exNext                   // blanks before a further ';'
	exAny                    // Lax: anything but line ends
)

// Body decodes body bytes from in. data is the next piece of content, a sub-slice of in; n counts it and the framing before it. end says that the
// message is complete; d is then ready for the next head and trailers are in tr. Call it again with the rest of in until n covers all of in.
//
// When neither data nor end nor a fault comes back, more bytes are needed. What was not consumed then (an incomplete trailer line) must be presented
// again in front of them. Trailers are checked always, and added to tr when tr is not nil and EnableTrailers is set, except fields that a
// trailer must not carry (RFC 9110 section 6.5.1), which are dropped.
func (d *Decoder) Body(in []byte, tr *httpmsg.Fields) (n int, data []byte, end bool, k fault.Kind) {
	switch d.phase {
	case phLength:
		n = int(min(int64(len(in)), d.left))
		if d.left -= int64(n); d.left == 0 {
			d.arm(d.boundary())
			end = true
		}
		return n, in[:n], end, fault.None
	case phClose:
		return len(in), in, false, fault.None
	case phSize, phSizeMore, phExt, phSizeLF, phData, phDataCR, phDataLF, phDataSkip, phTrailer:
		return d.chunked(in, tr)
	case phBroken, phTunnel:
		return 0, nil, false, fault.CodecError
	}
	return 0, nil, true, fault.None
}

// boundary is the phase between messages.
func (d *Decoder) boundary() phase {
	if d.flags&dResponse != 0 {
		return phIdle
	}
	return phHead
}

// chunked: RFC 9112 section 7.1. It runs until it has data, the end, a fault, or no more bytes.
func (d *Decoder) chunked(in []byte, tr *httpmsg.Fields) (int, []byte, bool, fault.Kind) {
	for i := 0; i < len(in); {
		switch d.phase {
		case phData:
			n := int(min(int64(len(in)-i), d.left))
			if d.left -= int64(n); d.left == 0 {
				d.phase = phDataCR
			}
			return i + n, in[i : i+n], false, fault.None
		case phTrailer:
			n, end, k := d.trailer(in[i:], tr)
			if i += n; end || k != fault.None || n == 0 {
				return i, nil, end, k
			}
		default:
			if !d.chunkByte(in[i]) {
				return i, nil, false, d.broken(fault.CodecError)
			}
			i++
		}
	}
	return len(in), nil, false, fault.None
}

// chunkByte advances by one byte of framing; false means malformed.
func (d *Decoder) chunkByte(c byte) bool {
	switch d.phase {
	case phSize, phSizeMore:
		return d.sizeByte(c)
	case phExt:
		if d.lines++; d.lines > maxChunkLine {
			return false
		}
		return d.extByte(c)
	case phSizeLF:
		if c != '\n' {
			return false
		}
		if d.left == 0 {
			d.arm(phTrailer)
		} else {
			d.phase = phData
		}
	case phDataCR:
		switch {
		case c == '\r':
			d.phase = phDataLF
		case !d.o.Lax:
			return false // more data than the size said
		case c == '\n':
			d.newChunk()
		default:
			d.phase = phDataSkip
		}
	case phDataLF:
		if c != '\n' {
			if !d.o.Lax {
				return false
			}
			d.phase = phDataSkip
			return true
		}
		d.newChunk()
	case phDataSkip:
		if c == '\n' {
			d.newChunk()
		}
	}
	return true
}

func (d *Decoder) newChunk() { d.phase, d.left, d.lines = phSize, 0, 0 }

// sizeByte reads the hex digits of a chunk size and what may follow them.
func (d *Decoder) sizeByte(c byte) bool {
	if d.lines++; d.lines > maxChunkLine {
		return false
	}
	v := int64(-1)
	switch {
	case '0' <= c && c <= '9':
		v = int64(c - '0')
	case 'a' <= c && c <= 'f':
		v = int64(c-'a') + 10
	case 'A' <= c && c <= 'F':
		v = int64(c-'A') + 10
	}
	if v >= 0 {
		d.phase = phSizeMore
		if d.left > math.MaxInt64>>4 {
			return false
		}
		d.left = d.left<<4 | v
		return true
	}
	if d.phase == phSize {
		return false // no digit at all
	}
	switch {
	case c == '\r':
		d.phase = phSizeLF
	case c == ';' && d.o.Lax:
		d.phase, d.ext = phExt, exAny
	case c == ';':
		d.phase, d.ext = phExt, exName0
	case isBlank(c):
		d.phase, d.ext = phExt, exPad
	default:
		return false
	}
	return true
}

// extByte checks a chunk extension. Every reader skips extensions, but not all agree where a malformed one ends. Longer than most: one case per state.
func (d *Decoder) extByte(c byte) bool {
	tok := token[c] != 0
	switch s := &d.ext; *s {
	case exPad, exNext:
		switch {
		case isBlank(c):
		case c == ';' && d.o.Lax:
			*s = exAny
		case c == ';':
			*s = exName0
		case c == '\r' && d.o.Lax:
			d.phase = phSizeLF
		default:
			return false
		}
	case exName0, exValue0:
		switch {
		case isBlank(c):
		case tok:
			*s++ // exName, exValue
		case c == '"' && *s == exValue0:
			*s = exQuoted
		default:
			return false
		}
	case exName, exEquals:
		switch {
		case tok && *s == exName:
		case isBlank(c):
			*s = exEquals
		case c == '=':
			*s = exValue0
		case c == ';':
			*s = exName0
		case c == '\r' && *s == exName:
			d.phase = phSizeLF
		default:
			return false
		}
	case exValue, exClosed:
		switch {
		case tok && *s == exValue:
		case isBlank(c):
			*s = exNext
		case c == ';':
			*s = exName0
		case c == '\r':
			d.phase = phSizeLF
		default:
			return false
		}
	case exQuoted:
		switch {
		case c == '"':
			*s = exClosed
		case c == '\\':
			*s = exEscape
		case c < ' ' && c != '\t' || c == 0x7f:
			return false
		}
	case exEscape:
		*s = exQuoted
		return c >= ' ' && c != 0x7f || c == '\t'
	case exAny:
		if c == '\r' {
			d.phase = phSizeLF
		}
		return c != '\n'
	}
	return true
}

// trailer reads one line of a trailer section (RFC 9112 section 7.1.2); n is 0 while the line is incomplete.
func (d *Decoder) trailer(in []byte, tr *httpmsg.Fields) (n int, end bool, k fault.Kind) {
	from := min(int(d.scanned), len(in))
	lf := bytes.IndexByte(in[from:], '\n')
	limit := d.maxHeadBytes() - int(d.lineOff)
	if n = from + lf + 1; lf < 0 {
		d.scanned = uint32(len(in))
		n = len(in)
	} else {
		d.scanned = 0
	}
	if n > limit {
		return 0, false, d.broken(fault.HeadersTooLarge)
	}
	if lf < 0 {
		return 0, false, fault.None
	}
	line := in[:n-1]
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	} else if !d.o.Lax {
		return 0, false, d.broken(fault.CodecError)
	}
	if len(line) == 0 {
		d.arm(d.boundary())
		return n, true, fault.None
	}
	if d.lines++; int(d.lines) > d.o.maxHeaders() {
		return 0, false, d.broken(fault.TooManyHeaders)
	}
	d.lineOff += uint32(n)
	if k := d.trailerField(line, tr); k != fault.None {
		return 0, false, d.broken(k)
	}
	return n, false, fault.None
}

func (d *Decoder) trailerField(line []byte, tr *httpmsg.Fields) fault.Kind {
	if isBlank(line[0]) && d.o.Lax {
		return fault.None // a continuation of a trailer: dropped
	}
	i := 0
	for i < len(line) && token[line[i]] != 0 {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ':' {
		return fault.CodecError
	}
	value := line[i+1:]
	for j := 0; j < len(value); j++ {
		if j = control(value, j); j < len(value) && value[j] != '\t' {
			return fault.InvalidCharacters
		}
	}
	if tr == nil || !d.o.EnableTrailers {
		return fault.None
	}
	b := tr.A.Tail()
	mark := len(b)
	for _, c := range line[:i] {
		b = append(b, token[c])
	}
	name := tr.A.Take(b)
	id := httpmsg.LookupBytes(b[mark:])
	drop := forbiddenTrailer(id)
	if !drop && bytes.IndexByte(b[mark:], '_') >= 0 {
		switch d.o.Underscores {
		case UnderscoreReject:
			return fault.UnexpectedUnderscore
		case UnderscoreDrop:
			if d.droppedUS < 255 {
				d.droppedUS++
			}
			drop = true
		default:
			drop = framingLookalike(b[mark:])
		}
	}
	if drop {
		tr.A.Truncate(mark)
		return fault.None
	}
	f := tr.Grow(id)
	f.Name, f.Value = name, tr.A.Put(trimBlanks(value))
	if d.o.KeepRawNames {
		f.Raw = tr.A.Put(line[:i])
	}
	return fault.None
}

// forbiddenTrailer: fields for framing, routing, authentication and content handling have no meaning in a trailer (RFC 9110 section 6.5.1).
func forbiddenTrailer(id httpmsg.ID) bool {
	switch id {
	case httpmsg.IDHost, httpmsg.IDConnection, httpmsg.IDContentLength, httpmsg.IDTransferEncoding, httpmsg.IDKeepAlive, httpmsg.IDProxyConnection,
		httpmsg.IDUpgrade, httpmsg.IDTE, httpmsg.IDTrailer, httpmsg.IDExpect, httpmsg.IDAuthorization, httpmsg.IDCookie, httpmsg.IDSetCookie,
		httpmsg.IDContentType, httpmsg.IDContentEncoding, httpmsg.IDForwardedFor, httpmsg.IDForwardedProto, httpmsg.IDForwardedHost,
		httpmsg.IDForwardedPort, httpmsg.IDForwardedClientCert:
		return true
	}
	return false
}
