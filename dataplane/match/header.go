// SPDX-License-Identifier: Apache-2.0

package match

import "sidecar/dataplane/httpmsg"

// HeaderKind is the kind of a Header matcher.
type HeaderKind uint8

// The kinds.
const (
	HeaderPresent HeaderKind = iota // present_match, and a matcher without a specifier
	HeaderString                    // string_match, safe_regex_match and the deprecated text forms
	HeaderRange                     // range_match
)

// Header is a compiled envoy.config.route.v3.HeaderMatcher. Immutable; Match allocates nothing.
//
// A header that occurs several times matches when any one of its values does; Invert then means that none does. A header that is missing
// matches only HeaderPresent (with Want false or Invert), whatever Invert says for the other kinds, unless MissingAsEmpty.
type Header struct {
	Key            httpmsg.Key
	Kind           HeaderKind
	Pseudo         Pseudo
	Invert         bool
	MissingAsEmpty bool  // treat_missing_header_as_empty
	Want           bool  // HeaderPresent: the value of present_match
	Start, End     int64 // HeaderRange: [Start, End)
	Str            String
}

// Pseudo names a pseudo-header field of Head.
type Pseudo uint8

// The pseudo-headers.
const (
	PseudoNone Pseudo = iota
	PseudoAuthority
	PseudoPath
	PseudoMethod
	PseudoScheme
	PseudoStatus
	PseudoUnknown // ":anything-else": never present
)

// PseudoOf tells which pseudo-header a name means; "host" is ":authority", as in Envoy.
func PseudoOf(name string) Pseudo {
	switch name {
	case "host", ":authority":
		return PseudoAuthority
	case ":path":
		return PseudoPath
	case ":method":
		return PseudoMethod
	case ":scheme":
		return PseudoScheme
	case ":status":
		return PseudoStatus
	}
	if len(name) > 0 && name[0] == ':' {
		return PseudoUnknown
	}
	return PseudoNone
}

// NewHeader prepares the name of a matcher; the caller sets the kind.
func NewHeader(name string) Header {
	k := httpmsg.KeyOf(name)
	return Header{Key: k, Pseudo: PseudoOf(k.Name), Want: true}
}

// Match reports whether the head fulfils the matcher.
func (m *Header) Match(h *httpmsg.Head) bool {
	if m.Pseudo != PseudoNone {
		var scratch [5]byte
		v, ok := pseudoValue(m.Pseudo, h, scratch[:0])
		if !ok {
			return m.missing()
		}
		if m.Kind == HeaderPresent {
			return m.Want != m.Invert
		}
		return m.value(v) != m.Invert
	}
	i := h.FindKey(m.Key, 0)
	if i < 0 {
		return m.missing()
	}
	if m.Kind == HeaderPresent {
		return m.Want != m.Invert
	}
	for ; i >= 0; i = h.FindKey(m.Key, i+1) {
		if m.value(h.Value(i)) {
			return !m.Invert
		}
	}
	return m.Invert
}

func (m *Header) missing() bool {
	if m.MissingAsEmpty {
		if m.Kind == HeaderPresent {
			return m.Want != m.Invert
		}
		return m.value(nil) != m.Invert
	}
	if m.Kind == HeaderPresent {
		return m.Want == m.Invert
	}
	return false
}

func (m *Header) value(v []byte) bool {
	if m.Kind == HeaderRange {
		n, ok := ParseInt(v)
		return ok && n >= m.Start && n < m.End
	}
	return m.Str.Match(v)
}

// pseudoValue returns the value of a pseudo-header; the status is written into scratch.
func pseudoValue(p Pseudo, h *httpmsg.Head, scratch []byte) ([]byte, bool) {
	var v []byte
	switch p {
	case PseudoAuthority:
		v = h.Host()
		return v, len(v) > 0 || h.HostCount > 0
	case PseudoPath:
		v = h.Path()
	case PseudoMethod:
		v = h.MethodBytes()
	case PseudoScheme:
		v = h.SchemeBytes()
	case PseudoStatus:
		if h.Status == 0 {
			return nil, false
		}
		return appendUint(scratch, uint64(h.Status)), true
	}
	return v, len(v) > 0
}

func appendUint(b []byte, n uint64) []byte {
	var d [20]byte
	i := len(d)
	for {
		i--
		d[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return append(b, d[i:]...)
		}
	}
}

// All reports whether the head fulfils every matcher.
func All(ms []Header, h *httpmsg.Head) bool {
	for i := range ms {
		if !ms[i].Match(h) {
			return false
		}
	}
	return true
}

// Any reports whether the head fulfils at least one matcher.
func Any(ms []Header, h *httpmsg.Head) bool {
	for i := range ms {
		if ms[i].Match(h) {
			return true
		}
	}
	return false
}

// ParseInt reads the whole of v as a decimal 64-bit integer with an optional sign, around which white space is ignored.
func ParseInt(v []byte) (int64, bool) {
	for len(v) > 0 && (v[0] == ' ' || v[0] == '\t') {
		v = v[1:]
	}
	for len(v) > 0 && (v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		v = v[:len(v)-1]
	}
	neg := false
	if len(v) > 0 && (v[0] == '-' || v[0] == '+') {
		neg = v[0] == '-'
		v = v[1:]
	}
	n, ok := ParseUint(v)
	switch {
	case !ok || n > 1<<63 || n == 1<<63 && !neg:
		return 0, false
	case neg:
		return -int64(n), true
	}
	return int64(n), true
}

// ParseUint reads the whole of v, digits only, as an unsigned 64-bit integer.
func ParseUint(v []byte) (uint64, bool) {
	if len(v) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

// FieldValue returns the first value of the field k of a request, which may be a pseudo-header or "host".
func FieldValue(h *httpmsg.Head, k httpmsg.Key) ([]byte, bool) {
	if p := PseudoOf(k.Name); p != PseudoNone {
		return pseudoValue(p, h, nil)
	}
	return h.GetKey(k)
}

// PseudoValue returns the value of a pseudo-header of a request.
func PseudoValue(p Pseudo, h *httpmsg.Head) ([]byte, bool) { return pseudoValue(p, h, nil) }
