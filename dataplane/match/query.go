// SPDX-License-Identifier: Apache-2.0

package match

import "bytes"

// Query is a compiled envoy.config.route.v3.QueryParameterMatcher. Immutable; Match allocates nothing.
type Query struct {
	Name string // compared byte for byte, not decoded
	// Present: any value will do (present_match true or no specifier). Absent: present_match false.
	Present, Absent bool
	Str             String
}

// maxQueryValue bounds the decoded parameter value that a text matcher looks at, in bytes; longer ones never match. Values are decoded on the
// stack.
const maxQueryValue = 4096

// Match reports whether the path (with its query) fulfils the matcher. The first of several parameters of that name counts; its value is
// compared percent-decoded.
func (m *Query) Match(path []byte) bool {
	v, ok := QueryParam(path, m.Name)
	switch {
	case m.Absent:
		return !ok
	case !ok:
		return false
	case m.Present:
		return true
	}
	if bytes.IndexByte(v, '%') < 0 {
		return m.Str.Match(v)
	}
	if len(v) > maxQueryValue {
		return false
	}
	var buf [256]byte
	return m.Str.Match(AppendPercentDecoded(buf[:0], v))
}

// QueryParam returns the value, not decoded, of the first parameter with that name in the query of path.
func QueryParam(path []byte, name string) ([]byte, bool) {
	i := bytes.IndexByte(path, '?')
	if i < 0 {
		return nil, false
	}
	q := path[i+1:]
	for {
		part := q
		end := bytes.IndexByte(q, '&')
		if end >= 0 {
			part = q[:end]
		}
		key, val := part, []byte(nil)
		if eq := bytes.IndexByte(part, '='); eq >= 0 {
			key, val = part[:eq], part[eq+1:]
		}
		if string(key) == name {
			return val, true
		}
		if end < 0 {
			return nil, false
		}
		q = q[end+1:]
	}
}

// AppendPercentDecoded appends v with its well-formed %XX escapes decoded; others stay as they are.
func AppendPercentDecoded(b, v []byte) []byte {
	for i := 0; i < len(v); i++ {
		if v[i] == '%' && i+2 < len(v) {
			if hi, lo := unhex(v[i+1]), unhex(v[i+2]); hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, v[i])
	}
	return b
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
