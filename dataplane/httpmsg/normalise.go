// SPDX-License-Identifier: Apache-2.0

package httpmsg

import "bytes"

// PathOptions is what a connection manager does to request paths.
type PathOptions struct {
	// Immutable

	Normalize      bool           // normalize_path
	MergeSlashes   bool           // merge_slashes
	EscapedSlashes EscapedSlashes // path_with_escaped_slashes_action
	StripFragment  bool           // cut at '#' instead of rejecting (runtime http_reject_path_with_fragment off)
}

// PathVerdict is the outcome of CleanPath.
type PathVerdict uint8

// The verdicts.
const (
	PathOK       PathVerdict = iota
	PathRejected             // answer fault.PathNormalization
	PathRedirect             // answer 307 with the path, now clean, as location
)

// Flags of pathChars, after the table that Envoy's URL library canonicalises paths with.
const (
	pcEscape   = 1 << iota // a raw one is percent-encoded
	pcUnescape             // an encoded one is decoded
	pcInvalid              // rejected, raw or encoded
	pcSpecial              // '.', '/', '\' and '%': looked at
)

var pathChars = func() (t [256]byte) {
	for c := range 256 {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_', c == '~':
			t[c] = pcUnescape
		case c <= ' ', c >= 0x7f, bytes.IndexByte([]byte("\"#<>?^`{|}"), byte(c)) >= 0:
			t[c] = pcEscape
		}
	}
	t[0] = pcInvalid
	t['.'], t['/'], t['\\'], t['%'] = pcSpecial, pcSpecial, pcSpecial, pcSpecial
	return t
}()

// CleanPath applies o to the path of a request in Envoy's order: fragment, escaped slashes, normalisation, slash merging. The query is left as
// it is. The result goes to the arena if anything changed.
func (h *Head) CleanPath(o *PathOptions) PathVerdict {
	p := h.Path()
	if len(p) == 0 || p[0] != '/' {
		return PathOK // CONNECT, or refused elsewhere
	}
	if i := bytes.IndexByte(p, '#'); i >= 0 {
		if !o.StripFragment {
			return PathRejected
		}
		h.Target.Len = uint32(i)
		p = p[:i]
	}
	v := PathOK
	if o.EscapedSlashes != SlashKeep && hasEscapedSlash(p) {
		h.Target = h.A.Take(AppendUnescapedSlashes(h.A.Tail(), p))
		switch o.EscapedSlashes {
		case SlashReject:
			return PathRejected // decoded all the same, as Envoy logs it
		case SlashUnescapeRedirect:
			v = PathRedirect
		}
		p = h.Path()
	}
	if o.Normalize && !isNormal(p) {
		b, ok := AppendNormalPath(h.A.Tail(), p)
		if !ok {
			return PathRejected
		}
		h.Target = h.A.Take(b)
		p = h.Path()
	}
	if o.MergeSlashes && hasDoubleSlash(p) {
		h.Target = h.A.Take(AppendMergedSlashes(h.A.Tail(), p))
	}
	return v
}

// pathEnd returns where the query of p starts.
func pathEnd(p []byte) int {
	if i := bytes.IndexByte(p, '?'); i >= 0 {
		return i
	}
	return len(p)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// escaped reads the percent-encoded byte at p[i:]; -1 if there is none.
func escaped(p []byte, i int) int {
	if i+2 >= len(p) || p[i] != '%' {
		return -1
	}
	hi, lo := unhex(p[i+1]), unhex(p[i+2])
	if hi < 0 || lo < 0 {
		return -1
	}
	return hi<<4 | lo
}

func hasEscapedSlash(p []byte) bool {
	for i := range pathEnd(p) {
		if c := escaped(p, i); c == '/' || c == '\\' {
			return true
		}
	}
	return false
}

// AppendUnescapedSlashes appends p with %2F and %5C of the path decoded.
func AppendUnescapedSlashes(b, p []byte) []byte {
	end := pathEnd(p)
	for i := 0; i < end; i++ {
		if c := escaped(p, i); c == '/' || c == '\\' {
			b = append(b, byte(c))
			i += 2
			continue
		}
		b = append(b, p[i])
	}
	return append(b, p[end:]...)
}

func hasDoubleSlash(p []byte) bool {
	end := pathEnd(p)
	for i := 1; i < end; i++ {
		if p[i] == '/' && p[i-1] == '/' {
			return true
		}
	}
	return false
}

// AppendMergedSlashes appends p with every run of slashes in the path made one.
func AppendMergedSlashes(b, p []byte) []byte {
	end := pathEnd(p)
	for i := range end {
		if i == 0 || p[i] != '/' || p[i-1] != '/' {
			b = append(b, p[i])
		}
	}
	return append(b, p[end:]...)
}

// isNormal reports that normalisation would surely change nothing, which is the common case.
func isNormal(p []byte) bool {
	for i, c := range p {
		if c == '?' {
			return true
		}
		switch pathChars[c] {
		case pcEscape, pcInvalid:
			return false
		case pcSpecial:
			if c == '%' || c == '\\' || c == '.' && i > 0 && p[i-1] == '/' {
				return false
			}
		}
	}
	return true
}

// AppendNormalPath appends p normalised after RFC 3986 section 6.2.2 the way Envoy does: '\' is '/', dot segments (encoded dots too) are removed, encoded
// unreserved characters are decoded, characters that do not belong in a path are encoded; other escapes stay as written, malformed ones too. It fails on
// an encoded or raw NUL. What comes back for its own output is the same again.
func AppendNormalPath(b, p []byte) ([]byte, bool) {
	end := pathEnd(p)
	path, root := p[:end], len(b)
	stray := -3 // offset in b of the last percent sign that starts no escape
	for i := 0; i < len(path); {
		c := path[i]
		if n := dot(path, i); n > 0 {
			if len(b) > root && b[len(b)-1] == '/' {
				if skip, up, ok := dotSegment(path, i+n); ok {
					if i = skip; up {
						b = parent(b, root)
					}
					continue
				}
			}
			b = append(b, '.')
			i += n
			continue
		}
		i++
		switch flags := pathChars[c]; {
		case c == '/', c == '\\':
			b = append(b, '/')
		case c == '%':
			e := escaped(path, i-1)
			switch {
			case e < 0:
				stray = len(b)
				b = append(b, c)
				continue
			case pathChars[e]&pcInvalid != 0:
				return nil, false
			case pathChars[e]&pcUnescape != 0:
				b = append(b, byte(e))
				b, stray = closeStray(b, stray, path[i+2:])
			default:
				b = append(b, path[i-1:i+2]...)
			}
			i += 2
		case flags&pcInvalid != 0:
			return nil, false
		case flags&pcEscape != 0:
			const hex = "0123456789ABCDEF"
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, p[end:]...), true
}

// closeStray is called when a decoded character was appended to b. If it would complete a stray percent sign to an escape, which the next
// reader would decode, the percent sign is encoded.
func closeStray(b []byte, stray int, next []byte) ([]byte, int) {
	last := b[len(b)-1]
	switch len(b) - stray {
	case 2:
		if !isHex(last) || len(next) == 0 || !isHex(next[0]) {
			return b, stray
		}
	case 3:
		if !isHex(last) || !isHex(b[stray+1]) {
			return b, stray
		}
	default:
		return b, stray
	}
	b = append(b, 0, 0)
	copy(b[stray+3:], b[stray+1:])
	b[stray+1], b[stray+2] = '2', '5'
	return b, -3
}

// dot returns the length of the dot, plain or encoded, at p[i:]; 0 if there is none.
func dot(p []byte, i int) int {
	if i < len(p) && p[i] == '.' {
		return 1
	}
	if i < len(p) && p[i] == '%' && escaped(p, i) == '.' {
		return 3
	}
	return 0
}

// dotSegment looks behind the first dot of a segment: is it "." or ".."? skip is the offset of what follows the segment and its slash.
func dotSegment(p []byte, i int) (skip int, up, ok bool) {
	if n := dot(p, i); n > 0 {
		i, up = i+n, true
	}
	if i == len(p) {
		return i, up, true
	}
	if p[i] == '/' || p[i] == '\\' {
		return i + 1, up, true
	}
	return 0, false, false
}

// parent cuts the last segment off b, which ends in a slash; the root stays.
func parent(b []byte, root int) []byte {
	i := len(b) - 1
	for i > root {
		if i--; b[i] == '/' {
			break
		}
	}
	return b[:i+1]
}
